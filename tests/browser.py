"""A headless browser for tests of pages, where one is installed."""

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageStat

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_OPTIONS += ("--disable-sync", "--no-first-run")


@contextmanager
def running() -> Iterator[Any]:
    """Yields a playwright Browser, or skips where Chromium or playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(
            f"a page needs a browser, and none of {', '.join(_NAMES)} is installed (Debian: apt-get install chromium)"
        )
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=program, args=list(_OPTIONS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, place: Path | str, *, told: str | None = None, **options: Any) -> Iterator[Any]:
    """Yields a file, or what is at an address, as a playwright Page in a profile of its own, which asked for nothing
    outside and complained of nothing when the block ends.

    Args:
        browser: from `running`.
        place: of the page.
        told: what it may complain of, as a regular expression: Chromium itself tells of every answer that is an error.
        options: those of `Browser.new_context`.
    """
    address = place if isinstance(place, str) else place.as_uri()
    complaints: list[str] = []
    origins: set[str] = set()
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    context.on("request", lambda request: origins.add(_origin(request.url)))
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(address)
    yield page
    context.close()
    unexpected = [complaint for complaint in complaints if told is None or not re.search(told, complaint)]
    assert not unexpected, unexpected
    assert origins <= {_origin(address), "data:", "blob:"}, origins


def _origin(address: str) -> str:
    """Of an address on a network with its host; a blob is the page's own, whoever made it."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"


def data_of(path: Path) -> Any:
    """Returns what the scripts of a page in one file read."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


def wait_for(page: Any, condition: str, *, seconds: float = 10) -> None:
    """Waits until a JavaScript expression holds; playwright's own way needs `eval`, which our pages forbid."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"after {seconds} seconds it still does not hold: {condition}"
        page.wait_for_timeout(10)


def mean_levels(page: Any, selector: str, *points: tuple[float, float]) -> list[float]:
    """Returns mean levels in [0, 255] of 40 x 40 pixels around points of an element, given in parts of its size, as the
    screen shows them."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")
    means = []
    for point in points:
        left, top = (round(part * side) - 20 for part, side in zip(point, shot.size, strict=True))
        means.append(sum(ImageStat.Stat(shot.crop((left, top, left + 40, top + 40))).mean) / 3)
    return means
