"""EXIF of a picture made that of its result: patched in place, so that offsets in a maker note stay true."""

import re
import struct
from collections.abc import Iterable

from xpsr.image.directories import EXIF_IFD, GPS_IFD, INTEROP_IFD, Directory, Entry, Layout, Tree, laid, of_bytes

__all__ = ["patched"]

_DESCRIPTION, _ORIENTATION, _SOFTWARE = 0x010E, 0x0112, 0x0131
_SHAPE = re.compile(rb'\{"shape": \[(\d+(?:, \d+)*)\]\}\0*')  # tifffile's description of an array
_SIDES = ((None, 0x0100, 0x0101), (EXIF_IFD, 0xA002, 0xA003))  # where width and height stand
_THUMBNAIL = ((0x0201, 0x0202), (0x0111, 0x0117))  # offsets and lengths of a JPEG, and of strips

_MAX_THUMBNAILS = 8

_DAMAGED = "its EXIF is damaged and left out"

Span = tuple[int, int]
"""Bytes from one offset up to another."""


def patched(
    exif: bytes | None,
    size: tuple[int, int],
    *,
    strip_gps: bool = False,
    software: str | None = None,
    keeps_orientation: bool = True,
) -> tuple[bytes | None, tuple[str, ...]]:
    """Returns EXIF for an upright result, and what is to be told.

    No byte moves: numbers are overwritten, what is taken out becomes zeros, what is new stands at the end.

    Args:
        exif: from its TIFF header on; None: there is none.
        size: width and height of the result, written where those of the picture stand.
        strip_gps: where the picture was taken is overwritten.
        software: becomes the tag `Software`.
        keeps_orientation: the tag is set to 1; else it goes, where it is there.
    """
    notices: tuple[str, ...] = ()
    content: bytes | None = None
    if exif is not None and not _is_empty(exif):
        content = _Block(exif).patched(size, strip_gps, software, keeps_orientation)
        notices = (_DAMAGED,) if content is None else ()
        content = content or None
    if content is None and software is not None:
        block, at = laid(Tree(values={_SOFTWARE: (2, _text(software))}, below={}), _NEW, 8)
        content = b"II*\0" + struct.pack("<I", at) + block
    return content, notices


def _is_empty(exif: bytes) -> bool:
    """Returns whether EXIF has a directory without entries, as some programs leave it."""
    layout = Layout.of(of_bytes(exif))
    return layout is not None and exif[layout.first : layout.first + 2] == b"\0\0"


_NEW = Layout(order="<", is_big=False, first=8)


def _text(text: str) -> bytes:
    """Longer than what stands in an entry itself."""
    return (text.encode() + b"\0").ljust(5, b"\0")


class _Block:
    """EXIF while it is changed."""

    def __init__(self, exif: bytes):
        self._content = bytearray(exif)
        self._read = of_bytes(self._content)

    def patched(
        self, size: tuple[int, int], strip_gps: bool, software: str | None, keeps_orientation: bool
    ) -> bytes | None:
        """Returns it changed, nothing where nothing is left of it; None: it is too damaged for that."""
        layout = Layout.of(self._read)
        if layout is None or layout.is_big:
            return None
        self._layout = layout
        first = layout.directory(self._read, layout.first)
        if first is None or not first.entries or first.next_at > len(self._content):
            return None
        self._first = first
        self._exif = layout.below(self._read, first, EXIF_IFD)
        thumbnails = self._thumbnails()
        if strip_gps and not all(self._blank_gps(one) for one in (first, self._exif, *thumbnails) if one is not None):
            return None
        self._take_out_thumbnails(thumbnails)
        for below, across, down in _SIDES:
            directory = first if below is None else self._exif
            for tag, side in zip((across, down), size, strict=True):
                self._set_number(None if directory is None else directory.find(tag), side)
        if keeps_orientation:
            self._set_number(first.find(_ORIENTATION), 1)
        elif first.find(_ORIENTATION) is not None:
            self._take_out(first.at, _ORIENTATION)
        if self._tells_other_shape(first.find(_DESCRIPTION), size):
            self._take_out(first.at, _DESCRIPTION)
        if strip_gps:
            for one in (first, self._exif):
                if one is not None and one.find(GPS_IFD) is not None:
                    self._take_out(one.at, GPS_IFD)
        if layout.directory(self._read, layout.first) is None:
            return b""
        if software is not None:
            self._set_software(_text(software))
        return bytes(self._content)

    def _set_number(self, entry: Entry | None, value: int) -> None:
        if entry is None or entry.count != 1 or entry.kind not in (1, 3, 4):
            return
        letter = "H" if entry.kind != 4 and value < 2**16 else "I"
        order = self._layout.order
        struct.pack_into(order + "H", self._content, entry.at + 2, {"H": 3, "I": 4}[letter])
        self._content[entry.at + 8 : entry.at + 12] = struct.pack(order + letter, value).ljust(4, b"\0")

    def _tells_other_shape(self, entry: Entry | None, size: tuple[int, int]) -> bool:
        """Returns whether a description says nothing but the shape of an array that the result is not."""
        if entry is None or entry.kind != 2:
            return False
        told = _SHAPE.fullmatch(self._read(entry.value_at, entry.size))
        return told is not None and f" {size[1]}, {size[0]}," not in f" {told[1].decode()},"

    def _thumbnails(self) -> list[Directory]:
        """The directories behind the first one, each once."""
        found: list[Directory] = []
        seen, at = {self._first.at}, self._first.following
        while at not in seen and len(found) < _MAX_THUMBNAILS:
            seen.add(at)
            directory = self._layout.directory(self._read, at)
            if directory is None:
                break
            found.append(directory)
            at = directory.following
        return found

    def _take_out_thumbnails(self, thumbnails: list[Directory]) -> None:
        spans: list[Span] = []
        for directory in thumbnails:
            spans += _spans(directory)
            for offsets, lengths in _THUMBNAIL:
                pairs = [self._layout.numbers(self._read, directory.find(tag)) for tag in (offsets, lengths)]
                spans += [(at, at + length) for at, length in zip(*pairs, strict=False)]
        blanked = self._blank(spans, protected=self._kept())
        end = len(self._content)
        for start, stop in reversed(blanked):  # cut off what stands at the end
            if stop < end - 3 or any(self._content[stop:end]):
                break
            end = start
        del self._content[end:]
        if self._first.following:
            width = struct.calcsize(self._layout.offset)
            self._content[self._first.next_at : self._first.next_at + width] = bytes(width)

    def _kept(self) -> list[Span]:
        """What the picture's own directories take up."""
        directories = [self._first, self._exif, self._layout.below(self._read, self._first, GPS_IFD)]
        if self._exif is not None:
            directories.append(self._layout.below(self._read, self._exif, INTEROP_IFD))
        return [(0, 8), *(span for directory in directories if directory is not None for span in _spans(directory))]

    def _blank_gps(self, parent: Directory) -> bool:
        """Overwrites the place that a directory tells; returns whether that could be found, if there is one."""
        number = [*parent.lost, *(entry.tag for entry in parent.entries)].count(GPS_IFD)
        if number == 0:
            return True
        if number > 1 or GPS_IFD in parent.lost:
            return False
        place = self._layout.below(self._read, parent, GPS_IFD)
        if place is None or place.lost:
            return False
        tables = [_table(one) for one in (self._first, self._exif) if one is not None]
        self._blank(_spans(place), protected=[(0, 8), *tables])
        return True

    def _blank(self, spans: Iterable[Span], *, protected: Iterable[Span]) -> list[Span]:
        """Makes bytes zeros but for those that are protected; returns which, in order."""
        blanked = _without(spans, protected, len(self._content))
        for start, stop in blanked:
            self._content[start:stop] = bytes(stop - start)
        return blanked

    def _take_out(self, at: int, tag: int) -> None:
        """Takes an entry out of a directory; those behind it in the table move up, and their values stay."""
        directory = self._layout.directory(self._read, at)
        entry = None if directory is None else directory.find(tag)
        if directory is None or entry is None:
            return
        end, width = directory.next_at + struct.calcsize(self._layout.offset), self._layout.entry_size
        self._content[entry.at : end] = self._content[entry.at + width : end] + bytes(width)
        struct.pack_into(self._layout.count, self._content, at, directory.stored - 1)

    def _set_software(self, text: bytes) -> None:
        layout = self._layout
        first = layout.directory(self._read, layout.first)
        assert first is not None
        entry = first.find(_SOFTWARE)
        if entry is not None and entry.kind == 2 and entry.size >= len(text):
            self._content[entry.value_at : entry.value_at + entry.size] = text.ljust(entry.size, b"\0")
            struct.pack_into(layout.offset, self._content, entry.at + 4, len(text))
            return
        self._content += bytes(len(self._content) % 2)
        head = struct.pack(layout.order + "HHII", _SOFTWARE, 2, len(text), len(self._content))
        self._content += text + bytes(len(text) % 2)
        if entry is not None:
            self._content[entry.at : entry.at + 12] = head
            return
        # Nothing may move, so a longer table stands at the end
        at, table = len(self._content), bytes(self._content[first.at + 2 : first.next_at])
        entries = sorted(
            (head, *(table[index : index + 12] for index in range(0, len(table), 12))),
            key=lambda entry: struct.unpack(layout.order + "H", entry[:2]),
        )
        self._content += struct.pack(layout.count, first.stored + 1) + b"".join(entries) + bytes(4)
        struct.pack_into(layout.offset, self._content, 4, at)
        self._content[first.at : first.next_at] = bytes(first.next_at - first.at)


def _table(directory: Directory) -> Span:
    return directory.at, directory.next_at + 4


def _spans(directory: Directory) -> list[Span]:
    """What a directory takes up: its table, and the values that stand elsewhere."""
    values = [(entry.value_at, entry.value_at + entry.size) for entry in directory.entries]
    return [_table(directory), *values]


def _without(spans: Iterable[Span], protected: Iterable[Span], end: int) -> list[Span]:
    """Returns the parts of spans that lie before `end` and in none that is protected, in order and apart."""
    events = [(at, 1, step) for span in spans for at, step in zip(span, (1, -1), strict=True)]
    events += [(at, 0, step) for span in protected for at, step in zip(span, (1, -1), strict=True)]
    events.append((end, 0, 1))
    found: list[Span] = []
    depths, before = [0, 0], 0
    for at, kind, step in sorted(events):
        if depths[1] > 0 and depths[0] == 0 and at > before:
            joins = bool(found) and found[-1][1] == before
            found[-1:] = [(found[-1][0], at)] if joins else [*found[-1:], (before, at)]
        depths[kind] += step
        before = at
    return found
