"""The page of a server: pictures go in, results come out, and whoever sits there knows what goes on."""

import base64
import hashlib
import io
import itertools
import json
import re
import shlex
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import mean_levels, opened, wait_for
from page_checks import FAINT, LONGEST_FRAME, NAMELESS, SMALL
from PIL import Image

pytest.importorskip("fastapi", reason="the server is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the server is not installed")

from xpsr.cli import main  # noqa: E402
from xpsr.config import ServeConfig, UpscaleConfig  # noqa: E402
from xpsr.errors import XPSRError  # noqa: E402
from xpsr.model_files import bundled_models  # noqa: E402
from xpsr.prior import Prior  # noqa: E402
from xpsr.web import app as web_app  # noqa: E402
from xpsr.web.hands import Hand  # noqa: E402
from xpsr.web.jobs import Preview, Request  # noqa: E402
from xpsr.web.scheduler import Scheduler  # noqa: E402
from xpsr.web.spool import Spool  # noqa: E402

PAGE = Path(web_app.__file__).parent / "page"
GRAIN = json.loads((bundled_models()["mini"] / "model_index.json").read_text())["settings"]["grain"]
HOSTILE = "<img src=x onerror=alert(1)>.png"
LONG = 60.0
"""Seconds that a restoration may take on a busy machine."""


@dataclass
class House:
    """A server's inside, which several servers may share."""

    scheduler: Scheduler
    hands: Sequence[Hand]
    spool: Spool
    config: ServeConfig


@contextmanager
def housed(folder: Path, config: ServeConfig, *, works: bool) -> Iterator[House]:
    """Yields a server's inside; without hands, jobs wait."""
    with ExitStack() as stack:
        spool = Spool(folder)
        stack.callback(spool.close)
        limits = {
            name: getattr(config, name) for name in ("max_queue", "max_per_client", "max_seconds", "keep_seconds")
        }
        scheduler = Scheduler(spool, **limits)
        hands = [Hand(config, "cpu", scheduler)] if works else []
        for hand in hands:
            hand.start()
            stack.callback(hand.close)
        yield House(scheduler, hands, spool, config)


@contextmanager
def served(
    house: House, *, hands: Sequence[Any] | None = None, port: int = 0, token_file: Path | None = None
) -> Iterator[str]:
    """Yields the address of a server that answers for a house."""
    config = ServeConfig(**{**vars(house.config), "token_file": token_file})
    app = web_app.build_app(config, house.scheduler, house.hands if hands is None else hands, house.spool)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def house(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, forked_workers: None
) -> Iterator[House]:
    """With the mini, and a tiny model that takes several steps, which draw noise."""
    config = ServeConfig(models=("mini", f"steps={tiny_model}"), devices=("cpu",))
    with housed(tmp_path_factory.mktemp("spool"), config, works=True) as house:
        yield house


@pytest.fixture(scope="module")
def server(house: House) -> Iterator[str]:
    with served(house) as address:
        yield address


class Idle:
    """A hand that never takes a job, with the facts of one that would."""

    device, is_ready = "cpu", True

    def __init__(self, facts: dict[str, Any]):
        self.facts = facts


@contextmanager
def idle(house: House, folder: Path, **limits: Any) -> Iterator[tuple[House, str]]:
    """Yields a house in which nobody works, and the address of its server."""
    config = ServeConfig(**{**vars(house.config), **limits})
    with housed(folder, config, works=False) as other, served(other, hands=[Idle(house.hands[0].facts)]) as address:
        yield other, address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures of a few patches: a.png, b.jpg and c.png."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("a.png", "b.jpg", "c.png")):
        patches = np.random.default_rng(seed).integers(40, 216, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(np.kron(patches, np.ones((8, 8, 1), dtype=np.uint8))).save(folder / name)
    return folder


@contextmanager
def visiting(browser: Any, address: str, *files: Path, **options: Any) -> Iterator[Any]:
    """Yields the page when it knows its server, with pictures that have been described."""
    with opened(browser, address, **options) as page:
        wait_for(page, "document.getElementById('state').textContent !== ''")
        if files:
            page.set_input_files("#files", files)
            wait_for(page, described(len(files)), seconds=LONG)
        yield page


def described(number: int) -> str:
    states = "[...document.querySelectorAll('.card .what')].map((one) => one.textContent)"
    return f"{states}.filter((state) => state.startsWith('Ready')).length === {number}"


def state(text: str) -> str:
    return f"document.querySelector('.card .what')?.textContent.startsWith('{text}')"


def restored(number: int) -> str:
    return f"document.querySelectorAll('.card[data-kind=done]').length === {number}"


def restore(page: Any) -> None:
    page.click("#restore")
    wait_for(
        page, "!document.getElementById('download').disabled && document.getElementById('working').hidden", seconds=LONG
    )


def downloaded(page: Any, button: str) -> tuple[str, bytes]:
    with page.expect_download() as found:
        page.click(button)
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def texts(page: Any, selector: str) -> list[str]:
    return page.eval_on_selector_all(selector, "all => all.map((one) => one.textContent)")


def swipe(page: Any, selector: str, start: float, end: float) -> None:
    """Moves a finger across an element, from one part of its width to another."""
    box = page.locator(selector).bounding_box()
    session = page.context.new_cdp_session(page)
    for step in range(6):
        across = box["width"] * (start + (end - start) * min(step / 4, 1))
        point = {"x": box["x"] + across, "y": box["y"] + 60}
        kind = ("touchStart", "touchMove", "touchMove", "touchMove", "touchMove", "touchEnd")[step]
        points = [] if kind == "touchEnd" else [point]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# what most people do


def test_texts_are_shown_and_what_somebody_writes_instead_is_followed(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png") as page:
        seen = page.input_value("#content"), page.input_value("#quality")
        assert all(seen)
        page.fill("#content", "patches of paint")
        wait_for(page, "!document.getElementById('unedit').hidden")
        page.click("#unedit")
        assert (page.input_value("#content"), page.input_value("#quality")) == seen
        page.fill("#content", "patches of paint")
        restore(page)
        name, record = downloaded(page, "#download-record")
        assert name == "a_x4.json"
        assert json.loads(record)["prior"] == {"content": "patches of paint", "quality": seen[1]}
        assert page.inner_text(".variant .label") == "4 × · your texts"


def test_result_is_what_the_copied_command_line_gives(browser, server, pictures, tmp_path, monkeypatch):
    with visiting(browser, server, pictures / "b.jpg", permissions=["clipboard-read", "clipboard-write"]) as page:
        page.check("#set-way-2")
        restore(page)
        name, result = downloaded(page, "#download")
        assert name == "b_x2.jpg"
        page.click("#copy-command")
        wait_for(page, "document.getElementById('toasts').textContent.includes('copied')")
        program, *arguments = shlex.split(page.evaluate("navigator.clipboard.readText()"))
        page.click("#about summary")
        assert sha256(result) in page.inner_text("#facts")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.jpg").write_bytes((pictures / "b.jpg").read_bytes())
    assert program == "xpsr"
    main([*arguments, "--output", "again.jpg", "--device", "cpu"])
    assert sha256((tmp_path / "again.jpg").read_bytes()) == sha256(result)


def test_several_pictures_leave_in_one_archive_with_their_records(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png", pictures / "c.png") as page:
        page.click("#restore-all")
        wait_for(page, restored(2), seconds=LONG)
        assert page.inner_text("#summary") == "2 of 2 restored"
        name, content = downloaded(page, "#download-all")
        assert name == "xpsr.zip"
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert sorted(archive.namelist()) == ["a_x4.json", "a_x4.png", "c_x4.json", "c_x4.png"]
            assert Image.open(archive.open("c_x4.png")).size == (160, 128)
        page.click("#remove-all")
        assert "have results" not in page.inner_text("#sure-text")  # they are saved
        page.click("#sure-yes")
        page.wait_for_selector("#start")


def test_variants_are_compared_and_the_chosen_one_is_downloaded(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png") as page:
        page.dblclick("#vary-fidelity")
        wait_for(page, "document.querySelectorAll('.variant[data-state=done]').length === 3", seconds=LONG)
        assert texts(page, ".variant .label") == ["4 × · fidelity 0", "4 × · fidelity 0.5", "4 × · fidelity 1"]
        results = []
        for place in (1, 2, 3):
            page.click(f".variant:nth-child({place})")
            results.append(sha256(downloaded(page, "#download")[1]))
        assert len(set(results)) == 3
        page.select_option("#before", label="4 × · fidelity 0")
        wait_for(page, "document.getElementById('tag-left').textContent === '4 × · fidelity 0'")
        page.focus(".variant:nth-child(3)")
        page.keyboard.press("ArrowLeft")
        wait_for(page, "document.getElementById('tag-right').textContent === '4 × · fidelity 0.5'")
        page.click("#restore")  # with fidelity 0, which is there
        wait_for(page, "document.getElementById('toasts').textContent.includes('made already')")
        assert page.locator(".variant").count() == 3


@pytest.mark.slow
def test_steps_that_draw_noise_give_four_seeds(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png") as page:
        assert page.is_hidden("#vary-seed")
        page.select_option("#set-model", "steps")
        assert page.is_hidden("#vary-fidelity")
        page.click("#more > summary")
        page.fill("#set-num_inference_steps", "2")
        page.click("#vary-seed")
        wait_for(page, "document.querySelectorAll('.variant[data-state=done]').length === 4", seconds=LONG)
        assert len(set(texts(page, ".variant .label"))) == 4
        assert "seed" in page.inner_text(".variant .label")


def test_settings_are_of_all_pictures_or_of_one(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png", pictures / "c.png") as page:
        page.click("text=Only this one")
        page.check("#set-way-longest")
        page.fill("#set-longest", "100")
        wait_for(page, "document.getElementById('size-told').textContent.endsWith('100 × 80')")
        page.click("#restore-all")
        wait_for(page, restored(2), seconds=LONG)
        assert [text.replace(" ", " ") for text in texts(page, ".card .what")] == [
            "Done · 100 × 80",
            "Done · 160 × 128",
        ]
        page.keyboard.press("n")
        assert page.get_attribute("#set-way-auto", "type") == "radio" and page.is_checked("#set-way-auto")


def test_settings_begin_with_what_the_operator_chose(browser, house, pictures, tmp_path):
    usual = UpscaleConfig(strip_gps=True, format="png")
    with idle(house, tmp_path, upscale=usual) as (_, address), opened(browser, address) as page:
        wait_for(page, "document.getElementById('set-metadata-place')?.checked")
        told = """async () => {
            const { Settings } = await import('/page/settings.js');
            const settings = new Settings(await (await fetch('/v1/models')).json());
            const usual = settings.defaults();
            return ['place', 'keep', 'none'].map((metadata) => settings.fields({ ...usual, metadata, map: false }));
        }"""
        assert page.evaluate(told) == [
            {},
            {"strip_gps": "false", "strip_metadata": "false"},
            {"strip_gps": "false", "strip_metadata": "true"},
        ]
        assert page.input_value("#set-format") == "png"


def test_grain_is_asked_for_and_depends_on_the_seed(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png") as page:
        page.click("#more > summary")
        assert page.is_visible("#set-seed") and page.is_hidden("#vary-seed")  # seeds of grain look alike
        page.fill("#set-grain", "2")
        page.click("#restore")
        assert page.inner_text("#fault-grain") == "Use a number from 0 to 1."
        page.fill("#set-grain", "0")
        assert page.is_hidden("#set-seed")
        page.fill("#set-grain", "0.30")
        page.fill("#set-seed", "3")
        restore(page)
        assert page.inner_text(".variant .label") == "4 × · grain 0.3 · seed 3"
        record = json.loads(downloaded(page, "#download-record")[1])
        assert (record["settings"]["grain"], record["seed"]) == (0.3, 3)


def test_the_usual_grain_depends_on_the_seed_until_fidelity_takes_it_away(browser, server):
    with visiting(browser, server) as page:
        told = """async (grain) => {
            const { Settings } = await import('/page/settings.js');
            const settings = new Settings(await (await fetch('/v1/models')).json()), usual = settings.defaults();
            const half = { fidelity: '0.5' };
            const asked = [{}, half, { fidelity: '1' }, { grain: '0' }, { grain }, { ...half, grain }];
            return asked.map((changes) => {
                const values = { ...usual, ...changes, map: false };
                return [settings.applies('seed', values), settings.fields(values)];
            });
        }"""
        assert page.evaluate(told, str(GRAIN)) == [
            [True, {}],
            [True, {"fidelity": "0.5"}],
            [False, {"fidelity": "1"}],
            [False, {"grain": "0"}],
            [True, {}],
            [True, {"fidelity": "0.5", "grain": str(GRAIN)}],  # fidelity would take half of the usual
        ]


@pytest.mark.parametrize(
    ("usual", "expected"),
    [
        (UpscaleConfig(fidelity=1.0), [0, GRAIN / 2, GRAIN]),
        (UpscaleConfig(grain=0.3, fidelity=1.0), [0.3, 0.3, 0.3]),
        (UpscaleConfig(grain=0.3), [0.3, 0.3, 0.3]),
    ],
)
def test_the_page_knows_the_grain_beside_what_the_operator_chose(browser, house, tmp_path, usual, expected):
    with idle(house, tmp_path, upscale=usual) as (_, address), opened(browser, address) as page:
        told = """async () => {
            const { Settings } = await import('/page/settings.js');
            const settings = new Settings(await (await fetch('/v1/models')).json()), usual = settings.defaults();
            return ['1', '0.5', '0'].map((fidelity) => settings.grain({ ...usual, fidelity }));
        }"""
        assert page.evaluate(told) == pytest.approx(expected)


def test_an_example_that_does_not_come_is_told(browser, server):
    with visiting(browser, server, told="404") as page:
        page.evaluate("document.querySelector('[data-example]').dataset.example = 'page/examples/none.png'")
        page.click("[data-example]")
        wait_for(page, "document.querySelector('.toast.is-fault') !== null")
        assert not texts(page, ".card .what")


# the viewer


def test_border_moves_by_mouse_and_keyboard_and_the_picture_follows(browser, server, tmp_path):
    Image.new("RGB", (40, 32), (60, 60, 60)).save(tmp_path / "dark.png")
    with visiting(browser, server, tmp_path / "dark.png") as page:
        restore(page)
        page.click("#map-toggle")
        handle = page.locator("#handle")
        value = "document.getElementById('handle').getAttribute('aria-valuenow')"
        handle.focus()
        for key, position in (("End", 100), ("ArrowLeft", 98), ("Home", 0), ("PageUp", 10), ("ArrowRight", 12)):
            page.keyboard.press(key)
            wait_for(page, f"{value} === '{position}'")
        assert handle.get_attribute("aria-valuetext").replace(" ", " ") == "12 % before, 88 % after"
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)  # the picture itself is as good as the handle
        page.mouse.down()
        page.mouse.move(box["x"] + 5000, box["y"] + 60)
        page.mouse.up()
        wait_for(page, f"{value} === '100'")
        assert mean_levels(page, "#stage", (0.5, 0.3)) == pytest.approx([60], abs=2)


def test_results_are_shown_pixel_by_pixel_at_one_to_one(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png") as page:
        restore(page)
        result = Image.open(io.BytesIO(downloaded(page, "#download")[1])).convert("RGB")
        for key in ("f", "f", "1"):
            page.keyboard.press(key)
        wait_for(page, "document.getElementById('tag-zoom').textContent.endsWith('1:1')")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")
        pixels, expected = np.asarray(shot), np.asarray(result)
        middle = [(a - b) // 2 for a, b in zip(pixels.shape, expected.shape, strict=True)][:2]
        # the fonts decide where in a pixel the canvas begins, so a shot of it may have a row and a column more
        places = itertools.product(*(range(place - 1, place + 2) for place in middle))
        windows = (pixels[top : top + result.height, left : left + result.width] for top, left in places)
        assert any(np.array_equal(window, expected) for window in windows)
        page.keyboard.press("2")
        wait_for(page, "document.getElementById('tag-zoom').textContent.endsWith('2 ×')")


def test_before_and_after_change_places_by_a_key(browser, server, pictures):
    tag = "document.getElementById('tag-left').textContent"
    with visiting(browser, server, pictures / "a.png") as page:
        restore(page)
        page.keyboard.press("f")
        wait_for(page, f"{tag} === 'Before, enlarged'")
        page.keyboard.press("f")
        wait_for(page, f"{tag} === '4 ×'")
        assert page.is_hidden("#handle")
        page.keyboard.press("s")
        wait_for(page, "!document.getElementById('handle').hidden")
        page.click("#open-keys")
        page.uncheck("#has-keys")
        page.keyboard.press("Escape")
        page.keyboard.press("s")
        assert page.get_attribute("#slide", "aria-pressed") == "true"


RESULT = {"seed": 1, "output_sha256": "", "seconds": 1.0, "fidelity": {"invented": 0.1, "lr_psnr": 30.0}}


@pytest.mark.slow
def test_what_is_shown_stays_when_large_results_of_others_come(browser, house, tmp_path):
    for number in range(5):
        Image.new("RGB", (40, 32), (60, 60, 60)).save(tmp_path / f"{number}.png")
    size = (6500, 5200)  # of which four are too many to be kept
    content = io.BytesIO()
    Image.new("L", size, 200).save(content, "png")
    with (
        idle(house, tmp_path / "spool") as (other, address),
        visiting(browser, address, told="willReadFrequently") as page,  # of what this test reads
    ):

        def work(jobs: int) -> None:
            for _ in range(jobs):
                job = other.scheduler.take(timeout=20)
                other.scheduler.report(job, prior=Prior("paint", "sharp"))
                job.result.write_bytes(content.getvalue())
                other.scheduler.finish(job, {**RESULT, "output_size": size, "bytes": len(content.getvalue())})

        page.set_input_files("#files", sorted(tmp_path.glob("*.png")))
        work(5)
        wait_for(page, described(5))
        page.click("#restore")
        work(1)
        wait_for(page, "!document.getElementById('handle').hidden")
        page.click("#restore-all")
        work(4)
        level = "one.getContext('2d').getImageData(9, 9, 1, 1).data[0]"
        thumbs = f"[...document.querySelectorAll('.card .thumb canvas')].filter((one) => {level} === 200)"
        wait_for(page, f"{thumbs}.length === 5", seconds=LONG)
        page.click("#in")
        assert mean_levels(page, "#stage", (0.25, 0.3), (0.75, 0.3)) == pytest.approx([60, 200], abs=2)


def test_a_picture_that_is_removed_is_not_painted_any_more(browser, house, pictures, tmp_path):
    with idle(house, tmp_path) as (_, address), visiting(browser, address) as page:
        for name in ("a.png", "c.png"):
            page.set_input_files("#files", pictures / name)
            wait_for(page, "!document.getElementById('tag-left').hidden && document.getElementById('blank').hidden")
            wait_for(page, "document.getElementById('stage').getAttribute('aria-busy') === 'false'")
            page.click(".card .away")
            page.wait_for_selector("#start")


PUT = """async ([type, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], `${type}.png`, { type: 'image/png' }));
  const event = type === 'drop' ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


def test_pictures_are_dropped_and_pasted(browser, server, pictures):
    content = base64.b64encode((pictures / "a.png").read_bytes()).decode()
    with visiting(browser, server) as page:
        for kind in ("drop", "paste"):
            page.evaluate(PUT, [kind, content])
            wait_for(page, f"[...document.querySelectorAll('.name')].some((one) => one.textContent === '{kind}.png')")
        wait_for(page, described(2), seconds=LONG)


# what goes wrong


def test_what_is_no_picture_is_told_by_name(browser, server, pictures, tmp_path):
    (tmp_path / "fake.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    with visiting(browser, server, told="422") as page:
        page.set_input_files("#files", [tmp_path / "fake.jpg", tmp_path / "notes.txt"])
        assert "notes.txt is no picture" in page.inner_text("#toasts")
        wait_for(page, "!document.getElementById('trouble').hidden")
        assert page.inner_text("#trouble-title") == "This is no picture that xpsr can read"
        assert "JPEG" in page.inner_text("#trouble-text")
        assert texts(page, ".card .what") == ["This is no picture that xpsr can read"]


def test_values_that_cannot_be_are_told_at_their_controls(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png", told="413") as page:
        page.check("#set-way-scale")
        page.fill("#set-scale", "99")
        page.click("#restore")
        assert page.inner_text("#fault-scale") == "Use a number from 0.0625 to 16."
        assert page.evaluate("document.activeElement.id") == "set-scale"
        page.fill("#set-scale", "2")
        assert page.is_hidden("#fault-scale")
        page.check("#set-way-longest")
        page.fill("#set-longest", "999")  # 25 times as long, which the server refuses
        page.click("#restore")
        wait_for(page, "!document.getElementById('fault-longest').hidden")
        assert "16" in page.inner_text("#fault-longest")
        assert page.is_visible("#trouble")


def test_full_server_is_asked_again_by_itself(browser, house, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("xpsr.web.scheduler._USUAL_SECONDS", 1.0)  # after which it is asked again
    with idle(house, tmp_path, max_queue=1) as (full, address), visiting(browser, address, told="429") as page:
        told = {"kind": "describe", "name": "b", "width": 8, "height": 8, "format": "PNG", "bytes": 1, "suffix": ".png"}
        with full.scheduler.place("somebody else") as place:
            job = full.scheduler.submit(place, Request(**told, config=UpscaleConfig()))
        page.set_input_files("#files", pictures / "a.png")
        wait_for(page, state("The server is full; again in"))
        full.scheduler.forget(job)
        wait_for(page, state("Next in the queue"), seconds=30)


def ask_for_a_result(page):
    """Of a picture that waits for its texts, so that both are in the queue."""
    wait_for(page, state("Next in the queue"))
    page.click("#restore")
    wait_for(page, "document.getElementById('working-text').textContent.startsWith('1')")


def test_cancelled_jobs_leave_the_server(browser, house, pictures, tmp_path):
    with idle(house, tmp_path) as (other, address), visiting(browser, address) as page:
        page.set_input_files("#files", pictures / "a.png")
        ask_for_a_result(page)
        assert other.scheduler.counts["waiting"] == 2
        page.click("#cancel")
        wait_for(page, "document.getElementById('working').hidden")
        ask_for_a_result(page)
        assert other.scheduler.counts["waiting"] == 2
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")  # as when the page is left
        page.wait_for_timeout(300)
        assert other.scheduler.counts["waiting"] == 0


def test_a_picture_that_is_removed_is_not_sent_again(browser, house, pictures, tmp_path):
    with idle(house, tmp_path) as (other, address), visiting(browser, address) as page:
        page.set_input_files("#files", pictures / "a.png")
        ask_for_a_result(page)
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.method))
        page.click(".card .away")
        page.wait_for_timeout(300)
        assert sent == ["DELETE", "DELETE"]
        assert other.scheduler.counts["waiting"] == 0


def test_progress_previews_and_what_fails_are_shown(browser, house, pictures, tmp_path):
    with idle(house, tmp_path) as (other, address), visiting(browser, address) as page:
        page.set_input_files("#files", pictures / "a.png")
        described = other.scheduler.take(timeout=20)
        other.scheduler.report(described, prior=Prior("paint", "a sharp photograph"))
        other.scheduler.finish(described, {})
        wait_for(page, "document.getElementById('content').value === 'paint'")
        page.click("#restore")
        job = other.scheduler.take(timeout=20)
        assert (job.request.config.content, job.request.config.quality) == ("paint", "a sharp photograph")
        image = io.BytesIO()
        Image.new("RGB", (50, 40), (200, 30, 200)).save(image, "webp")
        other.scheduler.report(job, progress=(4, 20))
        page.wait_for_timeout(1600)
        other.scheduler.report(job, progress=(5, 20), preview=Preview(image=image.getvalue(), step=5, steps=20))
        wait_for(page, "document.getElementById('tag-right').textContent === 'Step 5 of 20'")
        wait_for(page, "/^Restoring 25.% · about .* left$/.test(document.getElementById('working-text').textContent)")
        assert page.get_attribute("#working-meter", "aria-valuenow") == "25"
        assert mean_levels(page, "#stage", (0.6, 0.3)) == pytest.approx([430 / 3], abs=8)
        other.scheduler.fail(job, XPSRError("what worked on it died", code="worker_died", remedy="try again"))
        wait_for(page, "!document.getElementById('trouble').hidden")
        assert page.inner_text("#trouble-text").endswith("try again.")
        page.click("#again")
        assert other.scheduler.take(timeout=20).request.config == job.request.config
        assert page.locator(".variant").count() == 1


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"others"), Path.unlink], ids=["changed", "gone"])
def test_a_file_that_is_no_longer_what_was_added_is_told(browser, house, pictures, tmp_path, change):
    path = tmp_path / "a.png"
    path.write_bytes((pictures / "a.png").read_bytes())
    with idle(house, tmp_path / "spool") as (_, address), visiting(browser, address) as page:
        page.set_input_files("#files", path)
        wait_for(page, state("Next in the queue"))
        change(path)
        page.click("#restore")
        wait_for(page, "!document.getElementById('trouble').hidden")
        assert page.inner_text("#trouble-title") == "This file has changed or is gone"
        assert page.inner_text("#trouble-text").endswith("Add it again.")
        assert page.is_hidden("#banner")


@pytest.mark.slow
def test_what_breaks_off_each_time_is_given_up(browser, house, pictures, tmp_path):
    with idle(house, tmp_path) as (_, address), visiting(browser, address, told="ERR_") as page:
        page.route("**/v1/describe", lambda route: route.abort())
        page.set_input_files("#files", pictures / "a.png")
        wait_for(page, "!document.getElementById('trouble').hidden", seconds=LONG)
        assert page.inner_text("#trouble-title") == "The connection breaks off"
        assert page.is_hidden("#banner")
        page.unroute("**/v1/describe")
        page.click("#again")
        wait_for(page, state("Next in the queue"))


@pytest.mark.slow
def test_server_that_went_away_is_waited_for(browser, house, pictures, tmp_path):
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        address = first.enter_context(served(house))
        page = stack.enter_context(visiting(browser, address, pictures / "a.png", told="ERR_"))
        first.close()
        page.click("#restore")
        wait_for(page, "!document.getElementById('banner').hidden")
        assert "does not answer" in page.inner_text("#banner")
        port = int(re.search(r":(\d+)/", address)[1])
        stack.enter_context(served(house, port=port))
        wait_for(page, restored(1), seconds=LONG)
        assert page.is_hidden("#banner")
        page.close()


def test_token_is_asked_for_and_kept_in_the_tab_alone(browser, house, pictures, tmp_path):
    (tmp_path / "tokens").write_text("a-good-token-of-many-letters\n")
    with served(house, token_file=tmp_path / "tokens") as address, opened(browser, address, told="401") as page:
        wait_for(page, "document.getElementById('token').open")
        page.fill("#token-field", "another")
        page.keyboard.press("Enter")
        wait_for(page, "document.getElementById('token-fault').textContent !== ''")
        page.fill("#token-field", "a-good-token-of-many-letters")
        page.keyboard.press("Enter")
        wait_for(page, "document.getElementById('state').textContent !== ''")
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie").count("good") == 0
        page.set_input_files("#files", pictures / "a.png")
        wait_for(page, described(1), seconds=LONG)
        restore(page)
        assert downloaded(page, "#download-all")[1][:2] == b"PK"
        page.reload()
        wait_for(page, "document.getElementById('state').textContent !== ''")


def test_page_works_where_the_browser_keeps_nothing_for_it(browser, house, tmp_path):
    (tmp_path / "tokens").write_text("a-good-token-of-many-letters\n")
    forbidden = "Object.defineProperty(window, '{}', {{ get() {{ throw new DOMException('', 'SecurityError'); }} }});"
    with served(house, token_file=tmp_path / "tokens") as address, opened(browser, address, told="401") as page:
        page.add_init_script("".join(forbidden.format(name) for name in ("localStorage", "sessionStorage")))
        page.reload()
        wait_for(page, "document.getElementById('token').open")
        page.fill("#token-field", "a-good-token-of-many-letters")
        page.keyboard.press("Enter")
        wait_for(page, "document.getElementById('state').textContent !== ''")


@pytest.mark.slow
def test_results_that_the_server_removed_stay_as_far_as_they_were_fetched(browser, server, pictures):
    with opened(browser, server) as page:
        page.clock.install()
        page.reload()
        wait_for(page, "document.getElementById('state').textContent !== ''")
        page.set_input_files("#files", pictures / "a.png")
        wait_for(page, described(1), seconds=LONG)
        restore(page)
        page.click("#about summary")
        assert "the server removes it" in page.inner_text("#facts")
        page.clock.fast_forward("02:00:00")
        wait_for(page, "document.getElementById('facts').textContent.includes('has removed it')")
        assert downloaded(page, "#download")[0] == "a_x4.png"
        assert page.is_disabled("#download-record")


def test_hostile_names_are_text(browser, server, pictures, tmp_path):
    (tmp_path / HOSTILE).write_bytes((pictures / "a.png").read_bytes())
    with visiting(browser, server, tmp_path / HOSTILE) as page:
        assert page.inner_text("#picture-name") == HOSTILE
        page.fill("#content", HOSTILE)
        restore(page)
        page.click("#about summary")
        assert HOSTILE in page.inner_text("#facts")
        assert page.locator("img[src=x]").count() == 0


# for everybody


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_controls_have_names_and_texts_are_strong_enough(browser, server, pictures, scheme):
    with visiting(browser, server, pictures / "a.png", color_scheme=scheme, reduced_motion="reduce") as page:
        page.click("#more > summary")
        restore(page)
        page.click("#about summary")
        page.mouse.move(0, 0)
        for _ in range(2):
            assert page.evaluate(NAMELESS) == []
            assert page.evaluate(FAINT) == []
            page.evaluate(
                "document.getElementById('start').hidden = false; document.getElementById('bench').hidden = true"
            )
        headings = page.eval_on_selector_all("h1, h2, h3", "all => all.map((one) => Number(one.tagName[1]))")
        assert headings[0] == 1 and headings.count(1) == 1


def test_everything_can_be_reached_by_keyboard(browser, server, pictures):
    with visiting(browser, server, pictures / "a.png", pictures / "c.png") as page:
        restore(page)
        page.focus("#add-files")
        reached = set()
        for _ in range(60):
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
            page.keyboard.press("Tab")
        wanted = {
            "pick",
            "canvas",
            "handle",
            "slide",
            "fit",
            "download",
            "copy-command",
            "content",
            "quality",
            "restore",
        }
        assert wanted <= {one for name in reached for one in (name, name.split(" ")[0])}
        page.focus(".card.is-on .pick")
        page.keyboard.press("ArrowDown")
        wait_for(page, "document.getElementById('picture-name').textContent === 'c.png'")
        assert page.evaluate("document.activeElement.closest('.card').textContent").startswith("c.png")
        page.keyboard.press("Delete")
        wait_for(page, "document.querySelectorAll('.card').length === 1")


@pytest.mark.slow
def test_phone_has_room_for_all_of_it(browser, server, pictures):
    phone = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
    with visiting(browser, server, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate(SMALL) == []
        page.set_input_files("#files", [pictures / "a.png", pictures / "b.jpg"])
        wait_for(page, described(2), seconds=LONG)
        page.tap("#vary-fidelity")
        wait_for(page, "document.querySelectorAll('.variant[data-state=done]').length === 3", seconds=LONG)
        page.tap("#settings-fold > summary")
        page.tap("#more > summary")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate(SMALL) == []
        page.locator("#tag-left").scroll_into_view_if_needed()
        swipe(page, "#canvas", 0.5, 0.8)
        wait_for(page, "Number(document.getElementById('handle').getAttribute('aria-valuenow')) > 60")


def test_dark_by_the_system_and_by_choice(browser, server):
    def paper(page: Any) -> int:
        return int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])

    with visiting(browser, server, color_scheme="dark") as page:
        assert paper(page) < 60
        page.click("#theme")
        assert paper(page) > 200
        page.reload()
        assert paper(page) > 200


@pytest.mark.slow
def test_two_hundred_pictures_stay_swift(browser, house, tmp_path):
    for number in range(200):
        Image.new("RGB", (64, 48), (number, 99, 255 - number)).save(tmp_path / f"{number:03}.jpg")
    with idle(house, tmp_path / "spool", max_queue=500) as (other, address), visiting(browser, address) as page:
        page.set_input_files("#files", sorted(tmp_path.glob("*.jpg")))
        wait_for(page, "document.querySelectorAll('.card').length === 200")
        page.click("#restore-all")
        wait_for(page, "document.querySelectorAll('.card[data-kind=busy]').length === 200")
        assert page.evaluate(LONGEST_FRAME) < 500
        assert other.scheduler.counts["waiting"] <= 4  # the others wait here
        assert page.locator(".card canvas").count() < 60  # those that can be seen, and some around them
        page.click("#cancel-all")
        wait_for(page, "document.querySelectorAll('.card[data-kind=busy]').length === 0")
        page.close()


# the files


def test_page_holds_no_inline_code_and_its_files_are_short():
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", html)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", html) == [""]
    for path in PAGE.glob("*.*"):
        if path.suffix in (".js", ".css", ".html"):
            text = path.read_text(encoding="utf-8")
            assert text.count("\n") < 400, path.name
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text), (
                path.name
            )
    # nothing is there and not served
    assert {path.suffix for path in PAGE.rglob("*.*")} - {".md"} == web_app._TYPES.keys()
    assert sum(path.stat().st_size for path in (PAGE / "examples").iterdir()) < 60_000
