"""Directories of tags, as TIFF files and EXIF hold them, walked so that no damage raises, loops or costs much."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "EXIF_IFD",
    "GPS_IFD",
    "INTEROP_IFD",
    "Directory",
    "Entry",
    "Layout",
    "Read",
    "Tree",
    "Values",
    "laid",
    "of_bytes",
    "swapped",
    "values_of",
]

EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
"""Tags whose values lead to another directory."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WORDS = {**_SIZES, 5: 4, 10: 4}  # what of a value is swapped with the order of bytes: a fraction is two numbers

_LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""How `struct` calls the types of whole numbers."""

_MAX_ENTRIES = 4096
"""Of a directory: cameras write fifty, and the count of a damaged one may say 65535."""

Read = Callable[[int, int], bytes]
"""Returns as many bytes from an offset on, or less where the file ends."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tag and its value.

    Attributes:
        tag: its number.
        kind: its type's number, such as 3 for 16-bit numbers.
        count: how many of these the value has.
        at: where the entry stands.
        value_at: where its value stands, which is in the entry itself if it is short.
        size: bytes of the value.
    """

    tag: int
    kind: int
    count: int
    at: int
    value_at: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Directory:
    """Entries that stand one after the other.

    Attributes:
        at: where its count stands.
        entries: those whose values lie within the file; the others are passed over.
        stored: how many entries there are.
        next_at: where the offset of the next directory stands.
        following: that offset; 0: there is none.
        lost: tags of entries that could not be read, or whose values lie beyond the end.
    """

    at: int
    entries: tuple[Entry, ...]
    stored: int
    next_at: int
    following: int
    lost: tuple[int, ...]

    def find(self, tag: int) -> Entry | None:
        """Returns the first entry with a tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a TIFF file writes numbers.

    Attributes:
        order: "<" or ">", as `struct` calls the order of bytes.
        is_big: BigTIFF, whose offsets have 64 bits.
        first: where the first directory stands.
    """

    order: str
    is_big: bool
    first: int

    @classmethod
    def of(cls, read: Read) -> "Layout | None":
        """Returns that of a file; None: it is no TIFF."""
        start = read(0, 16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        if order is None or len(start) < 8:
            return None
        magic = struct.unpack_from(order + "H", start, 2)[0]
        if magic == 42:
            return cls(order=order, is_big=False, first=struct.unpack_from(order + "I", start, 4)[0])
        if magic == 43 and len(start) == 16 and start[4:8] in (b"\x08\0\0\0", b"\0\x08\0\0"):
            return cls(order=order, is_big=True, first=struct.unpack_from(order + "Q", start, 8)[0])
        return None

    @property
    def offset(self) -> str:
        """The `struct` format of an offset."""
        return self.order + ("Q" if self.is_big else "I")

    @property
    def count(self) -> str:
        """The `struct` format of the count of entries."""
        return self.order + ("Q" if self.is_big else "H")

    @property
    def entry_size(self) -> int:
        """Bytes of an entry."""
        return 20 if self.is_big else 12

    def directory(self, read: Read, at: int) -> Directory | None:
        """Returns the directory at an offset; None: none can be read there."""
        width = struct.calcsize(self.count)
        start = read(at, width)
        if at < 8 or len(start) < width:
            return None
        stored = struct.unpack(self.count, start)[0]
        if not 0 < stored <= _MAX_ENTRIES:
            return None
        table = read(at + width, stored * self.entry_size)
        entries: list[Entry] = []
        lost: list[int] = []
        for index in range(len(table) // self.entry_size):
            entry = self._entry(read, table, index * self.entry_size, at + width)
            if entry is not None:
                entries.append(entry)
            else:
                lost += struct.unpack_from(self.order + "H", table, index * self.entry_size)
        next_at = at + width + stored * self.entry_size
        link = read(next_at, struct.calcsize(self.offset))
        return Directory(
            at=at,
            entries=tuple(entries),
            stored=stored,
            next_at=next_at,
            following=struct.unpack(self.offset, link)[0] if len(link) == struct.calcsize(self.offset) else 0,
            lost=tuple(lost),
        )

    def _entry(self, read: Read, table: bytes, index: int, base: int) -> Entry | None:
        tag, kind = struct.unpack_from(self.order + "HH", table, index)
        count = struct.unpack_from(self.offset, table, index + 4)[0]
        inline = struct.calcsize(self.offset)
        size = _SIZES.get(kind, 0) * count
        value_at = base + index + 4 + inline
        if size > inline:
            value_at = struct.unpack_from(self.offset, table, index + 4 + inline)[0]
            if value_at < 8 or len(read(value_at + size - 1, 1)) != 1:
                return None
        if kind not in _SIZES or count == 0:
            return None
        return Entry(tag=tag, kind=kind, count=count, at=base + index, value_at=value_at, size=size)

    def number(self, read: Read, entry: Entry | None) -> int | None:
        """Returns the one whole number that an entry holds; None: it holds no such."""
        numbers = self.numbers(read, entry)
        return numbers[0] if len(numbers) == 1 else None

    def numbers(self, read: Read, entry: Entry | None) -> tuple[int, ...]:
        """Returns the whole numbers that an entry holds; at most 65536."""
        letter = None if entry is None else _LETTERS.get(entry.kind)
        if entry is None or letter is None or entry.count > 2**16:
            return ()
        return struct.unpack(f"{self.order}{entry.count}{letter}", read(entry.value_at, entry.size))

    def below(self, read: Read, directory: Directory, tag: int) -> Directory | None:
        """Returns the directory that a tag of another leads to."""
        at = self.number(read, directory.find(tag))
        return None if at is None or at == directory.at else self.directory(read, at)


def of_bytes(content: bytes | bytearray) -> Read:
    """Returns what reads from bytes as from a file."""
    return lambda at, size: bytes(content[at : at + size])


def swapped(value: bytes, kind: int, order: str, into: str) -> bytes:
    """Returns a value of a type in another order of bytes."""
    width = _WORDS[kind]
    if order == into or width == 1:
        return value
    return b"".join(value[index : index + width][::-1] for index in range(0, len(value), width))


Values = dict[int, tuple[int, bytes]]
"""Values by tag: their type, and their bytes."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a directory holds, and the directories below it by their tags."""

    values: Values
    below: dict[int, "Tree"]


def values_of(read: Read, directory: Directory | None, keep: Callable[[int], bool], *, limit: int) -> Values:
    """Returns the values of a directory, but for offsets of others, until there are more than `limit` bytes.

    Args:
        read: the file.
        directory: None has none.
        keep: which tags are wanted.
        limit: of all values together, since those of a damaged file may be the same bytes a thousand times.
    """
    values: Values = {}
    for entry in directory.entries if directory is not None else ():
        if keep(entry.tag) and entry.tag not in (EXIF_IFD, GPS_IFD, INTEROP_IFD) and entry.kind <= 13:
            limit -= entry.size
            if limit >= 0:
                values[entry.tag] = entry.kind, read(entry.value_at, entry.size)
    return values


def laid(tree: Tree, layout: Layout, base: int) -> tuple[bytes, int]:
    """Returns directories as bytes that stand at an offset of a file, and the offset of the topmost one.

    Args:
        tree: whose values are in the order of `layout`.
        layout: of the file.
        base: where the bytes will stand, an even number.
    """
    content = bytearray()
    values = dict(tree.values)
    for tag, child in tree.below.items():
        part, at = laid(child, layout, base + len(content))
        content += part
        values[tag] = (16 if layout.is_big else 4), struct.pack(layout.offset, at)
    inline = struct.calcsize(layout.offset)
    start = base + len(content)
    behind = start + struct.calcsize(layout.count) + len(values) * layout.entry_size + inline
    table, long_values = bytearray(struct.pack(layout.count, len(values))), bytearray()
    for tag, (kind, value) in sorted(values.items()):
        table += struct.pack(layout.order + "HH", tag, kind)
        table += struct.pack(layout.offset, len(value) // _SIZES[kind])
        if len(value) <= inline:
            table += value.ljust(inline, b"\0")
        else:
            table += struct.pack(layout.offset, behind + len(long_values))
            long_values += value + b"\0" * (len(value) % 2)
    content += table + bytes(inline) + long_values
    return bytes(content), start
