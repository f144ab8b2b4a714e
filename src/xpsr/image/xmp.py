"""XMP of a picture made that of its result, by edits of its text: nothing is expanded, and the rest stays as it is."""

import codecs
import re
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

__all__ = ["SOURCE_TYPE", "Provenance", "patched"]

_TIFF, _EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
_IPTC, _OWN = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "urn:xpsr:1.0/"

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a picture of something real into which a trained model has painted.

`trainedAlgorithmicMedia` would say that all of it was made up, and `algorithmicallyEnhanced` is for what changes a
picture without making anything up, such as sharpening; XPSR paints detail that nobody has seen.
"""

_MAX_PREFIXES = 8

_DAMAGED = "its XMP is damaged and left out"

_EMPTY = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a result came about, written into its file.

    Attributes:
        software: name and version, as "xpsr 0.1.0".
        model: the model's name.
        seed: of the noise; None: it is not told.
    """

    software: str
    model: str
    seed: int | None = None


def patched(
    xmp: bytes | None, size: tuple[int, int], *, strip_gps: bool = False, provenance: Provenance | None = None
) -> tuple[bytes | None, tuple[str, ...]]:
    """Returns an XMP packet for an upright result, and what is to be told.

    Args:
        xmp: the picture's packet; None: there is none.
        size: width and height of the result, written where those of the picture stand.
        strip_gps: properties whose names begin with GPS go.
        provenance: is added, and IPTC's word for it; None: nothing is.
    """
    text: str | None = None
    notices: tuple[str, ...] = ()
    encoding = _encoding(xmp or b"")
    if xmp is not None:
        text = _edited(xmp, encoding, size, strip_gps)
        notices = (_DAMAGED,) if text is None else notices
    if text is None:
        text, encoding = (None if provenance is None else _EMPTY), "utf-8"
    if text is None:
        return None, notices
    if provenance is not None:
        told = _with_provenance(text, provenance)
        if told is None:  # no place in it
            told, encoding, notices = _with_provenance(_EMPTY, provenance), "utf-8", (_DAMAGED,)
        text = told
    return None if text is None else text.encode(encoding, "surrogateescape"), notices


def _encoding(xmp: bytes) -> str:
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (b"<\0\0\0", "utf-32-le"),
        (b"\0\0\0<", "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (b"<\0", "utf-16-le"),
        (b"\0<", "utf-16-be"),
    ):
        if xmp.startswith(mark):
            return name
    return "utf-8"


def _edited(xmp: bytes, encoding: str, size: tuple[int, int], strip_gps: bool) -> str | None:
    """The text with the result's numbers; None: it is damaged."""
    try:
        # Bytes that are no UTF-8 come back as they are
        text: str | None = xmp.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        return None
    # XMP has no entities of its own; what has may unpack to any size in whoever reads it
    if text is None or not re.search(r"<(?:[\w.-]+:)?RDF[\s>/]", text) or re.search(r"<!(DOCTYPE|ENTITY)", text):
        return None
    width, height = size
    for space, name, value in (
        (_TIFF, "Orientation", 1),
        (_TIFF, "ImageWidth", width),
        (_TIFF, "ImageLength", height),
        (_EXIF, "PixelXDimension", width),
        (_EXIF, "PixelYDimension", height),
    ):
        text = _with_value(text, f"{_prefixes(text, space)}:{name}", str(value))
    text = _without(text, r"[\w.-]+:Thumbnails")
    text = text and _without(text, r"[\w.-]+:HasExtendedXMP")
    if strip_gps and text:
        text = _without(text, r"[\w.-]+:[Gg][Pp][Ss][\w.-]*")
        return None if text is None or re.search(":gps", text, re.IGNORECASE) else text  # half a property is damage
    return text


def _prefixes(text: str, space: str) -> str:
    """A pattern for the prefixes of a namespace; honest packets have one, and a thousand would take long."""
    found = set(re.findall(rf"\bxmlns:([\w.-]+)\s*=\s*[\"']{re.escape(space)}[\"']", text))
    return f"(?:{'|'.join(map(re.escape, sorted(found)[:_MAX_PREFIXES]))})" if found else "(?!)"


def _with_value(text: str, name: str, value: str) -> str:
    """The text with another value for a property, be it an attribute or an element."""
    text = re.sub(rf"(?<=\s)({name}\s*=\s*)(?:\"[^\"<]*\"|'[^'<]*')", rf'\g<1>"{value}"', text)
    return re.sub(rf"(<{name}(?:\s[^<>]*)?>)[^<]*(?=</)", rf"\g<1>{value}", text)


def _without(text: str, name: str) -> str | None:
    """The text without a property, be it an attribute or an element with all that is in it; None: that has no end."""
    text = re.sub(rf"(?<=\s){name}\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')", "", text)
    kept, at = [], 0
    for start in re.finditer(rf"<({name})(?=[\s/>])[^<>]*>", text):
        if start.start() < at:  # in one that goes
            continue
        kept.append(text[at : start.start()])
        at = start.end()
        if not start.group().endswith("/>"):
            end = re.compile(rf"</{re.escape(start.group(1))}\s*>").search(text, at)
            if end is None:
                return None
            at = end.end()
    return "".join((*kept, text[at:]))


def _with_provenance(text: str, provenance: Provenance) -> str | None:
    """The text with what is told of a result; None: there is no place for it."""
    told: str | None = text
    for space, names in ((_IPTC, "DigitalSourceType|AISystemUsed|AISystemVersionUsed"), (_OWN, "Model|Seed")):
        told = told and _without(told, f"{_prefixes(told, space)}:(?:{names})")
    ends = list(re.finditer(r"</(?:([\w.-]+):)?RDF\s*>", told or ""))
    if not told or not ends:
        return None
    prefix = f"{ends[-1].group(1)}:" if ends[-1].group(1) else ""
    about = re.search(rf"\s{re.escape(prefix)}about\s*=\s*(\"[^\"<]*\"|'[^'<]*')", told)
    software, _, version = provenance.software.rpartition(" ")
    values = {
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": software,
        "Iptc4xmpExt:AISystemVersionUsed": version,
        "xpsr:Model": provenance.model,
        **({} if provenance.seed is None else {"xpsr:Seed": str(provenance.seed)}),
    }
    attributes = "".join(f" {name}={quoteattr(value)}" for name, value in values.items())
    added = (
        f'<{prefix}Description {prefix}about={about.group(1) if about else quoteattr("")} xmlns:Iptc4xmpExt="{_IPTC}"'
        f' xmlns:xpsr="{_OWN}"{attributes}/>\n'
    )
    return told[: ends[-1].start()] + added + told[ends[-1].start() :]
