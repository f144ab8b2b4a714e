"""A part of what `scripts/fuzz_pictures.py` does."""

import sys
from pathlib import Path

import fuzz_pictures
import pytest

from xpsr.image import decode_image


def test_the_corpus_is_read() -> None:
    files = fuzz_pictures.corpus()
    origins = [decode_image(content, name).origin for name, content in files.items()]
    found = {(origin.format, origin.bits) for origin in origins if origin is not None}
    assert {("PNG", 16), ("TIFF", 12), ("TIFF", 32), ("JXL", 16), ("AVIF", 10), ("GIF", 8), ("WEBP", 8)} <= found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process as the fuzz does")
def test_damaged_pictures_neither_crash_nor_hang_nor_take_more_memory(tmp_path: Path) -> None:
    counts, _, most = fuzz_pictures.run(seed=1, count=600, seconds=30, keep=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert counts["read"] > 50 and counts["refused"] > 50 and set(counts) <= {"read", "refused"}
    assert most < fuzz_pictures.MEMORY


def test_a_damaged_picture_is_always_the_same() -> None:
    files = fuzz_pictures.corpus()
    once, again = (fuzz_pictures.damaged(files, 5, 7) for _ in range(2))
    assert once == again and once[1] != files[once[0]]
