"""The tables of a ledger: its pictures, and how many are in each state, with what they took, which triggers count."""

__all__ = ["SCHEMA", "VERSION"]

VERSION = 1
"""Of the tables; a ledger of another one is refused."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
    kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    seed INTEGER NOT NULL,
    content TEXT,
    quality TEXT,
    stamp TEXT NOT NULL,
    prior TEXT,
    state TEXT NOT NULL DEFAULT 'waiting',
    attempts INTEGER NOT NULL DEFAULT 0,
    code TEXT,
    line TEXT,
    remedy TEXT,
    seconds REAL,
    pixels INTEGER,
    bytes INTEGER,
    key TEXT,
    output_sha256 TEXT,
    output_stamp TEXT,
    worker TEXT,
    since REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_id ON jobs (id);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (number) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS jobs_running ON jobs (number) WHERE state = 'running';
CREATE INDEX IF NOT EXISTS jobs_failed ON jobs (number) WHERE state = 'failed';
CREATE TABLE IF NOT EXISTS totals (
    state TEXT PRIMARY KEY, pictures INTEGER NOT NULL, seconds REAL NOT NULL, pixels INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO totals
    VALUES ('waiting', 0, 0, 0, 0), ('running', 0, 0, 0, 0), ('done', 0, 0, 0, 0), ('skipped', 0, 0, 0, 0),
        ('failed', 0, 0, 0, 0);
CREATE TRIGGER IF NOT EXISTS jobs_come AFTER INSERT ON jobs BEGIN
    UPDATE totals SET pictures = pictures + 1 WHERE state = new.state;
END;
CREATE TRIGGER IF NOT EXISTS jobs_go AFTER DELETE ON jobs BEGIN
    UPDATE totals SET pictures = pictures - 1, seconds = seconds - coalesce(old.seconds, 0),
        pixels = pixels - coalesce(old.pixels, 0), bytes = bytes - coalesce(old.bytes, 0) WHERE state = old.state;
END;
CREATE TRIGGER IF NOT EXISTS jobs_move AFTER UPDATE OF state ON jobs BEGIN
    UPDATE totals SET pictures = pictures - 1, seconds = seconds - coalesce(old.seconds, 0),
        pixels = pixels - coalesce(old.pixels, 0), bytes = bytes - coalesce(old.bytes, 0) WHERE state = old.state;
    UPDATE totals SET pictures = pictures + 1, seconds = seconds + coalesce(new.seconds, 0),
        pixels = pixels + coalesce(new.pixels, 0), bytes = bytes + coalesce(new.bytes, 0) WHERE state = new.state;
END;
"""
