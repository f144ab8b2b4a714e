"""Checks of the pre-commit hooks: `--ends` repairs the ends of text files, `--max-kb N` refuses large files."""

import argparse
import sys
from pathlib import Path


def repair_end(path: Path) -> bool:
    """Makes the file end in exactly one newline (an empty file stays empty); True if it had to be changed."""
    content = path.read_bytes()
    body = content.rstrip(b"\r\n")
    newline = b"\r\n" if content.endswith(b"\r\n") else b"\n"
    repaired = body + newline if body else b""
    if repaired != content:
        path.write_bytes(repaired)
    return repaired != content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    check = parser.add_mutually_exclusive_group(required=True)
    check.add_argument("--ends", action="store_true", help="make each file end in one newline; exit 1 if any changed")
    check.add_argument("--max-kb", type=int, metavar="N", help="exit 1 if a file is larger than N * 1024 bytes")
    parser.add_argument("files", nargs="*", type=Path)
    args = parser.parse_args()

    complaints = []
    for path in args.files:
        if args.ends and repair_end(path):
            complaints.append(f"{path}: end repaired")
        elif args.max_kb is not None and path.stat().st_size > args.max_kb * 1024:
            complaints.append(f"{path}: {path.stat().st_size // 1024} KB, the limit is {args.max_kb} KB")
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
