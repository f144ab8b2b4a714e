"""Web pages in one file: templates, styles and scripts lie beside this module and are put together without any tool.

Nothing in such a page asks a network for anything, and its Content-Security-Policy says so to the browser: styles and
scripts run only if their SHA-256 is the one that the page names. What comes from users is JSON in a block that is
data, and scripts make text of it, never markup.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from xpsr.errors import printable

__all__ = ["MAX_SIDE", "build_page", "cut", "data_uri", "middle"]

MAX_SIDE = 1152
"""Pixels of a side that a page shows; of larger pictures it has the middle. A multiple of `_GRID`."""

_GRID = 48  # a cut there is a whole pixel of an input that is 2, 3, 4, 6, 8 or 16 times smaller


def build_page(body: str, *, title: str, styles: Sequence[str], scripts: Sequence[str], data: Mapping[str, Any]) -> str:
    """Returns a page as one text of HTML.

    Args:
        body: name of the file of what stands in the body of `frame.html`.
        title: of the window.
        styles: names of CSS files, in order.
        scripts: names of JavaScript files, in order.
        data: what the scripts read, ready for JSON without NaN; may hold texts that mean harm.
    """
    folder = importlib.resources.files(__name__)

    def joined(names: Sequence[str]) -> str:
        return "\n" + "".join((folder / name).read_text(encoding="utf-8") for name in names)

    style, script = joined(styles), re.sub("^export ", "", joined(scripts), flags=re.MULTILINE)  # one file, no modules
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    # in JSON, these letters stand in strings only, and "</script>" must not end the block
    content = re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", json.dumps(data, allow_nan=False))
    parts = {
        "title": html.escape(printable(title)),
        "policy": policy,
        "style": style,
        "body": (folder / body).read_text(encoding="utf-8"),
        "data": content,
        "script": script,
    }
    frame = (folder / "frame.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], frame)  # in one pass: data is not looked through


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data_uri(image: Image.Image, *, is_exact: bool) -> str:
    """Returns an RGB picture as the address of a WebP: lossless, or at quality 95. It holds no metadata."""
    file = io.BytesIO()
    if is_exact:
        image.save(file, "webp", lossless=True, quality=0, method=0)  # the least effort: a sixth of the time, 1.1 x
    else:
        image.save(file, "webp", quality=95, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def middle(width: int, height: int) -> tuple[int, int, int, int] | None:
    """Returns left, top, right and bottom of the part that a page shows; None: the whole picture."""
    if max(width, height) <= MAX_SIDE:
        return None
    (left, right), (top, bottom) = (_part(side) for side in (width, height))
    return left, top, right, bottom


def _part(side: int) -> tuple[int, int]:
    if side <= MAX_SIDE:
        return 0, side
    start = (side - MAX_SIDE) // 2 // _GRID * _GRID
    return start, start + MAX_SIDE


def cut(image: Image.Image, box: tuple[int, int, int, int], scene: tuple[int, int]) -> Image.Image:
    """Returns the part of an image, of any size, that shows what `box` cuts out of a scene (width, height)."""
    across, down = image.width / scene[0], image.height / scene[1]
    return image.crop((round(box[0] * across), round(box[1] * down), round(box[2] * across), round(box[3] * down)))
