"""What a model is shown of a picture: the whole of it, shrunk, or parts of it at their own resolution."""

from typing import TYPE_CHECKING, Any

from xpsr.prior.texts import View

if TYPE_CHECKING:  # they load torch
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from xpsr.image import Picture

__all__ = ["crops_view", "view_picture", "whole_view"]

_LONGEST = 1536  # pixels of a side of what is shown whole
_CELL = 8  # pixels; windows begin at multiples of it, so the blocks of a JPEG stay in one grid


def view_picture(picture: "Picture", view: View) -> "Image.Image":
    """Returns `whole_view` or `crops_view` of a picture, as 8-bit RGB."""
    return whole_view(picture) if view == "whole" else crops_view(picture)


def whole_view(picture: "Picture") -> "Image.Image":
    """Returns the whole picture as 8-bit RGB, shrunk where a side is longer than 1536 pixels."""
    from PIL import Image

    from xpsr.image import to_pil

    image = to_pil(picture.pixels)
    factor = _LONGEST / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(round(side * factor), 1) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)


def crops_view(picture: "Picture", *, size: int = 448) -> "Image.Image":
    """Returns parts of the picture at its own resolution, side by side in at most `size` x `size` pixels of 8-bit RGB.

    Every pixel is one of the picture's: noise, blur and JPEG blocks are as they were. A side of more than `size` pixels
    is cut in two, and of each half, or quarter of the picture, the window of `size / 2` with the strongest gradients is
    shown, the first of equals. A picture that fits is shown as it is. `size` is a multiple of 16.
    """
    import numpy as np
    from PIL import Image

    from xpsr.image import to_pil

    assert size % (2 * _CELL) == 0
    image = to_pil(picture.pixels)
    rows, columns = _bands(image.height, size), _bands(image.width, size)
    if len(rows) == len(columns) == 1:
        return image
    detail = _summed_detail(np.asarray(image.convert("L"), dtype=np.float32))
    crops = Image.new("RGB", (sum(width for _, width in columns), sum(height for _, height in rows)))
    for row, (tops, height) in enumerate(rows):
        for column, (lefts, width) in enumerate(columns):
            top, left = _most_detailed(detail, tops, lefts, height, width)
            window = image.crop((left, top, left + width, top + height))
            crops.paste(window, (column * width, row * height))
    return crops


def _bands(length: int, size: int) -> list[tuple[range, int]]:
    """Returns the parts that a side falls into: where a window may begin, and how long it is."""
    if length <= size:
        return [(range(1), length)]
    window, middle = size // 2, length // 2 // _CELL * _CELL
    return [(range(0, length // 2 - window + 1, _CELL), window), (range(middle, length - window + 1, _CELL), window)]


def _summed_detail(gray: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """Maps (H, W) to the summed-area table (1 + H / 8, 1 + W / 8) of squared gradients, sides rounded up."""
    import numpy as np

    height, width = gray.shape
    squares = np.zeros((-(-height // _CELL) * _CELL, -(-width // _CELL) * _CELL), np.float32)
    squares[:height, 1:width] += np.diff(gray, axis=1) ** 2
    squares[1:height, :width] += np.diff(gray, axis=0) ** 2
    cells = squares.reshape(len(squares) // _CELL, _CELL, -1, _CELL).sum((1, 3), dtype=np.float64)
    return np.pad(cells.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _most_detailed(table: "NDArray[np.float64]", tops: range, lefts: range, height: int, width: int) -> tuple[int, int]:
    """Returns where (top, left) the window of that size has the most detail."""
    import numpy as np

    top, left = np.array(tops) // _CELL, np.array(lefts) // _CELL
    bottom, right = top - (-height // _CELL), left - (-width // _CELL)

    def corner(rows: "NDArray[Any]", columns: "NDArray[Any]") -> "NDArray[np.float64]":
        return table[np.ix_(rows, columns)]

    sums = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    row, column = divmod(int(sums.argmax()), len(lefts))
    return tops[row], lefts[column]
