"""Breaks model folders and configs at random, from a seed."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 64, 2**31, 10**12, 10**40, -(10**12), 0.5, 1e308, -1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "relu",
        "../../x",
        "\ud800",
        "a" * 100_000,
        [],
        {},
        [None],
        [1, "x"],
        {"x": 1},
    ),
)

TEXTS = ("[1, 2]", "{a: 1}", "&a [*a]", "*gone", "!!python/object:os.system", "%", "\t- x", "1e400", "0x1F")


def break_folder(folder: Path, random: random.Random) -> str:
    """Breaks one to three things in a folder and says what."""
    if random.random() < 0.8:  # or all that happens to weights would be seen by their digests
        (folder / "checksums.json").unlink(missing_ok=True)
    return "; ".join(_break_one(folder, random) for _ in range(random.choice((1, 1, 1, 2, 3))))


def break_text(text: str, random: random.Random) -> str:
    """Returns a text with a line or some characters changed."""
    lines = text.splitlines()
    index = random.randrange(len(lines))
    key, colon, value = lines[index].partition(":")
    new = str(
        random.choice((*VALUES[:-6], "[1, 2]", "{a: 1}", "&a [*a]", "*gone", "!!python/object:os.system", "%", "\t- x"))
    )
    change = random.choice(("value", "key", "delete", "double", "indent", "cut", "byte"))
    if change == "value":
        lines[index] = f"{key}: {new}" if colon else new
    elif change == "key":
        lines[index] = f"{new or 'x'}{colon}{value}"
    elif change == "delete":
        del lines[index]
    elif change == "double":
        lines.insert(index, lines[index])
    elif change == "indent":
        lines[index] = "  " + lines[index]
    elif change == "cut":
        return text[: random.randrange(len(text))]
    else:
        place = random.randrange(len(text))
        return text[:place] + random.choice("\x00\x07:{}[]&*!%@`\"'\ud800é\t") + text[place + 1 :]
    return "\n".join(lines)


def _break_one(folder: Path, random: random.Random) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    if not files or random.random() < 0.05:
        return _break_layout(folder, random)
    configs = [path for path in files if path.suffix == ".json"]
    if configs and random.random() < 0.7:
        path = random.choice(configs)
        try:
            content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        except ValueError:
            content = {}
        what, content = _break_value(content, random)
        path.write_text(json.dumps(content), encoding="utf-8")
        return f"{path.relative_to(folder)}: {what}"
    path = random.choice(files)
    change = random.choice(FILE_CHANGES)
    change(path, random)
    return f"{path.relative_to(folder)}: {change.__name__}"


def _break_value(content: Any, random: random.Random) -> tuple[str, Any]:
    if random.random() < 0.03:
        value = random.choice(VALUES)
        return f"all = {value!r:.40}", value
    places = list(_places(content, ()))
    if not places:
        return "nothing", content
    shallow = [place for place in places if len(place) < 3 or random.random() < 0.01]
    *way, last = random.choice(shallow or places)
    parent = content
    for step in way:
        parent = parent[step]
    change = random.choice(("value", "value", "value", "delete", "rename", "swap"))
    name = ".".join(map(str, (*way, last)))
    if change == "delete":
        del parent[last]
    elif change == "rename" and isinstance(parent, dict):
        parent[f"{last}x"] = parent.pop(last)
    elif change == "swap":
        other = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[last], parent[other] = parent[other], parent[last]
    else:
        value = random.choice(VALUES)
        parent[last] = value
        return f"{name} = {value!r:.40}", content
    return f"{change} {name}", content


def _places(content: Any, way: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*way, key)
        yield from _places(value, (*way, key))


def _break_layout(folder: Path, random: random.Random) -> str:
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    if not parts:
        return "nothing"
    part = random.choice(parts)
    change = random.choice(("remove", "file", "rename", "swap", "link"))
    if change == "rename":
        part.rename(folder / f"{part.name}x")
    elif change == "swap":
        other = random.choice(parts)
        part.rename(folder / "between")
        if other != part:
            other.rename(part)
        (folder / "between").rename(other)
    else:
        shutil.rmtree(part)
        if change == "file":
            part.write_text("x")
        elif change == "link":
            part.symlink_to("gone")
    return f"{change} {part.name}"


def cut(path: Path, random: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content) + 1)])


def empty(path: Path, random: random.Random) -> None:
    path.write_bytes(b"")


def remove(path: Path, random: random.Random) -> None:
    path.unlink()


def folder_instead(path: Path, random: random.Random) -> None:
    path.unlink()
    path.mkdir()


def broken_link(path: Path, random: random.Random) -> None:
    path.unlink()
    path.symlink_to("gone")


def endless_device(path: Path, random: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe_instead(path: Path, random: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def flip_bits(path: Path, random: random.Random) -> None:
    content = bytearray(path.read_bytes())
    reach = random.choice((64, 2000, len(content)))  # the headers of weights are more interesting than their numbers
    for _ in range(random.randint(1, 8)):
        if content:
            content[random.randrange(min(reach, len(content)))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def noise_instead(path: Path, random: random.Random) -> None:
    path.write_bytes(random.randbytes(random.choice((1, 8, 100, 5000))))


def append(path: Path, random: random.Random) -> None:
    path.write_bytes(path.read_bytes() + random.randbytes(random.choice((1, 100))))


def not_a_number(path: Path, random: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[-64:] = b"\xff" * len(content[-64:])
    path.write_bytes(content)


def rename(path: Path, random: random.Random) -> None:
    path.rename(path.with_name(random.choice((f"{path.name}x", "model.bin", "pytorch_model.bin", path.name.upper()))))


FILE_CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(cut, empty, remove, folder_instead, broken_link, endless_device, pipe_instead, flip_bits, flip_bits, flip_bits),
    *(noise_instead, append, not_a_number, rename),
)
