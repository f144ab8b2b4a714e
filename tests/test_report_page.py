"""The report as a page: everything in one file, worked by mouse and keyboard, and safe to open."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import data_of, mean_levels, opened, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xpsr.errors import InputError
from xpsr.evaluation import METRICS, Case, Evaluation, Method, load_protocol, write_page
from xpsr.evaluation import page as pages
from xpsr.evaluation.page import choose_pictures
from xpsr.evaluation.pages import MAX_SIDE, build_page, cut, middle

HOSTILE = "</script><script>alert(1)</script>"
PSNR = {"good": [31.0, 28.5, 25.0, 30.0], "poor": [22.0, 29.5, 21.0, 20.0]}
NIQE = {"good": [5.0, 6.0, 7.0, 4.0], "poor": [4.5, 9.0, 8.0, 3.0]}
NAMES = ("ape", "bee", "cat", "dog")


def save(path: Path, size: tuple[int, int], level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(size[0] * size[1] * 3).reshape(size[1], size[0], 3) % 7
    Image.fromarray((ramp + level - 3).astype(np.uint8)).save(path)
    return path


def make_evaluation(
    folder: Path,
    *,
    methods: tuple[str, ...] = ("good", "poor"),
    names: tuple[str, ...] = NAMES,
    size: tuple[int, int] = (160, 120),
) -> Evaluation:
    """Methods called "good" and "poor", or as told, with known scores of pictures of known levels."""
    made = []
    for place, (kind, method) in enumerate(zip(PSNR, methods, strict=True)):
        cases = tuple(
            Case(
                name=name,
                restored=save(folder / kind / f"{at}.png", size, 80 + 100 * place),
                hr=save(folder / "hr" / f"{at}.png", size, 50),
                lr=save(folder / "lr" / f"{at}.png", (size[0] // 4, size[1] // 4), 50),
            )
            for at, name in enumerate(names)
        )
        scores = tuple({"psnr_y": PSNR[kind][at], "niqe": NIQE[kind][at]} for at in range(len(names)))
        made.append(Method(name=method, cases=cases, scores=scores))
    return Evaluation(
        protocol=load_protocol("xpsr"),
        metrics=(METRICS["psnr_y"], METRICS["niqe"]),
        not_measured={"lpips": "needs weights"},
        methods=tuple(made),
        facts={"xpsr": "1.2.3", "machine": {"cores": 2}},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_page(make_evaluation(folder), folder / "report.html")
    return folder / "report.html"


def texts(page: Any, selector: str) -> list[str]:
    return page.eval_on_selector_all(selector, "all => all.map((one) => one.textContent)")


def levels(page: Any, *across: float) -> Any:
    """How bright the stage is at those parts of its width."""
    wait_for(page, "document.getElementById('stage').getAttribute('aria-busy') === 'false'")
    return pytest.approx(mean_levels(page, "#stage", *((part, 0.3) for part in across)), abs=4)


def test_summary_has_means_intervals_and_the_best_marked(browser, report):
    with opened(browser, report) as page:
        assert page.inner_text("h1") == "2 methods, 4 pictures"
        rows = "#summary-table tbody tr"
        assert texts(page, f"{rows} .mean") == ["28.63 (best)", "5.500 (best)", "23.13", "6.125"]
        assert "needs weights" in page.inner_text("#not-measured")
        assert "1.2.3" in page.inner_text("#facts")
        assert page.inner_text("#embedded") == "All pictures are in this page."


def test_tables_sort_by_click_and_keyboard(browser, report):
    def first_cells(page: Any) -> list[str]:
        return texts(page, "#all-table tbody tr td:nth-child(3)")

    with opened(browser, report) as page:
        head = page.locator("#all-table thead th").nth(2)
        assert head.get_attribute("aria-sort") == "none"
        head.locator("button").click()  # of a metric, the best first
        assert head.get_attribute("aria-sort") == "descending"
        numbers = [float(text) for text in first_cells(page)]
        assert numbers == sorted([*PSNR["good"], *PSNR["poor"]], reverse=True)
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert [float(text) for text in first_cells(page)] == numbers[::-1]
        page.locator("#summary-table thead th").nth(2).locator("button").click()
        assert texts(page, "#summary-table tbody th") == ["good", "poor"]  # a lower NIQE is better


def test_pictures_are_filtered_by_method_and_name(browser, report):
    with opened(browser, report) as page:
        page.select_option("#filter-method", label="poor")
        assert texts(page, "#all-table tbody td:first-child") == list(NAMES)
        page.fill("#filter-name", "BE")
        assert texts(page, "#all-table tbody td:first-child") == ["bee"]
        assert page.inner_text("#count") == "1 rows"


def test_slider_moves_by_keyboard_and_mouse_and_the_picture_follows(browser, report):
    with opened(browser, report) as page:
        handle = page.locator("#handle")
        assert handle.get_attribute("role") == "slider"
        left, right = 80, 180
        assert [left, right] == levels(page, 0.4, 0.6)
        handle.focus()
        for key, value in (
            ("End", 100),
            ("ArrowLeft", 98),
            ("Home", 0),
            ("ArrowLeft", 0),
            ("PageUp", 10),
            ("ArrowRight", 12),
        ):
            page.keyboard.press(key)
            wait_for(page, f"document.getElementById('handle').getAttribute('aria-valuenow') === '{value}'")
        assert [right] == levels(page, 0.4)
        box = handle.bounding_box()
        page.mouse.move(box["x"] + 22, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + 5000, box["y"] + 30)
        page.mouse.up()
        wait_for(page, "document.getElementById('handle').getAttribute('aria-valuenow') === '100'")
        assert [left] == levels(page, 0.6)


def test_both_sides_zoom_and_pan_together(browser, report):
    state = "parseFloat(document.getElementById('tag-zoom').textContent)"
    with opened(browser, report) as page:
        page.click("#beside")
        assert page.locator("#handle").is_hidden()
        assert levels(page, 0.25, 0.75) == [80, 180]
        before = page.evaluate(state)
        page.locator("#canvas").focus()
        page.keyboard.press("+")
        wait_for(page, f"{state} > {before}")
        page.mouse.move(*(page.locator("#canvas").bounding_box()[side] + 60 for side in ("x", "y")))
        zoomed = page.evaluate(state)
        page.mouse.wheel(0, -300)
        wait_for(page, f"{state} > {zoomed}")
        page.keyboard.press("0")
        wait_for(page, f"{state} === {before}")


def test_difference_is_gray_where_sides_are_equal(browser, report):
    with opened(browser, report) as page:
        page.locator("#canvas").focus()
        page.keyboard.press("d")
        page.wait_for_selector("#difference[aria-pressed=true]")
        assert levels(page, 0.5) == [0]  # 100 levels, four times
        page.select_option("#left", label="Original")
        page.select_option("#right", label="Input, enlarged")
        assert levels(page, 0.5) == [128]
        assert "gray is equal" in page.inner_text("#scores")


def test_worst_and_best_lead_to_the_viewer(browser, report):
    with opened(browser, report) as page:
        one, other = ("good", "poor"), ("poor", "good")
        titles = [(f"{a} most ahead of {b}", f"Worst of {a}", f"Best of {a}") for a, b in (one, other)]
        assert texts(page, "#cases h3") == [*titles[0], *titles[1]]
        first = page.locator("#cases ol").nth(0).locator("button").first
        assert first.inner_text().split() == ["dog", "30.00", "|", "20.00"]
        first.click()
        wait_for(page, "document.getElementById('scores').textContent.startsWith('dog')")
        assert page.input_value("#picture") == "3"
        page.keyboard.press("Tab")  # the focus stays among the cases, where keys of the viewer do nothing


def test_dots_tell_names_by_keyboard(browser, report):
    with opened(browser, report) as page:
        page.locator("#plots .row").first.focus()
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#tip") == "cat: 25.00"
        page.keyboard.press("End")
        assert page.inner_text("#tip") == "ape: 31.00"
        page.keyboard.press("Enter")
        wait_for(page, "document.getElementById('scores').textContent.startsWith('ape')")


def test_dark_by_the_system_and_by_choice(browser, report):
    def paper(page: Any) -> int:
        return int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])

    with opened(browser, report, color_scheme="dark") as page:
        assert paper(page) < 60
        page.click("#theme")
        assert paper(page) > 200
        page.reload()
        assert paper(page) > 200
    with opened(browser, report, color_scheme="light") as page:
        assert paper(page) > 200


def test_narrow_page_does_not_scroll_sideways(browser, report):
    with opened(browser, report, viewport={"width": 360, "height": 700}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_hostile_names_are_text(browser, tmp_path):
    image = '"><img src=http://localhost/x onerror=alert(2)>'
    evaluation = make_evaluation(tmp_path, methods=(HOSTILE, image), names=(HOSTILE, image, "{{data}}", "\udcff&lt;"))
    evaluation = replace(evaluation, facts={HOSTILE: image}, not_measured={image: HOSTILE})
    write_page(evaluation, tmp_path / "report.html")
    with opened(browser, tmp_path / "report.html") as page:
        assert texts(page, "#summary-table tbody th") == [HOSTILE, image]
        assert {HOSTILE, image, "{{data}}"} <= set(texts(page, "#all-table tbody td:first-child"))
        assert page.locator("script").count() == 2
        page.locator("#plots .row").first.focus()
        page.keyboard.press("Home")
        assert page.inner_text("#tip").endswith(": 25.00")
        assert page.title() == f"{HOSTILE} and {image}: evaluation"


def test_policy_stops_scripts_that_are_not_its_own(browser, report, tmp_path):
    changed = report.read_text(encoding="utf-8").replace("</main>", "<script>document.title = 'x'</script></main>")
    (tmp_path / "changed.html").write_text(changed, encoding="utf-8")
    with (
        pytest.raises(AssertionError, match="violates the following Content Security Policy"),
        opened(browser, tmp_path / "changed.html") as page,
    ):
        assert page.title() != "x"


@given(text=st.text(), number=st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=20, deadline=None)
def test_data_passes_through_a_page_unchanged(text, number):
    data = {"text": text, "number": number, text: [text]}
    page = build_page("report.html", title=text, styles=["base.css"], scripts=["base.js"], data=data)
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(block) == data
    assert page.count("<script") == 2


@given(
    factor=st.sampled_from((1, 2, 3, 4, 8)),
    width=st.integers(1, 1500),
    height=st.integers(1, 1500),
)
@settings(max_examples=20, deadline=None)
def test_cuts_of_input_and_result_show_the_same(factor, width, height):
    scene = (width * factor, height * factor)
    box = middle(*scene)
    if box is None:
        assert max(scene) <= MAX_SIDE
        return
    sizes = [cut(Image.new("L", size), box, scene).size for size in (scene, (width, height))]
    assert max(sizes[0]) == MAX_SIDE
    for whole, small, full in zip(sizes[0], sizes[1], scene, strict=True):
        assert whole == (full if full <= MAX_SIDE else MAX_SIDE)
        assert small * factor == whole


def test_pictures_that_tell_most_come_first(tmp_path):
    evaluation = make_evaluation(tmp_path)
    assert choose_pictures(evaluation, 2) == [1, 3]  # where "poor" is ahead; where it is furthest behind
    assert sorted(choose_pictures(evaluation, 99)) == [0, 1, 2, 3]
    assert choose_pictures(evaluation, 0) == []


def test_page_says_what_it_leaves_out(tmp_path, monkeypatch):
    evaluation = make_evaluation(tmp_path, size=(MAX_SIDE + 200, 48))
    write_page(evaluation, tmp_path / "two.html", max_pictures=2)
    data = data_of(tmp_path / "two.html")
    assert [picture["index"] for picture in data["pictures"]] == [1, 3]
    assert data["embedded"].startswith("2 of 4 pictures are in this page")
    assert data["pictures"][0]["note"] == "The middle 1152 × 48 of 1352 × 48 pixels."
    monkeypatch.setattr(pages, "MAX_BYTES", 2_000)
    write_page(evaluation, tmp_path / "small.html")
    data = data_of(tmp_path / "small.html")
    assert len(data["pictures"]) < 4
    assert (tmp_path / "small.html").stat().st_size < 100_000
    write_page(evaluation, tmp_path / "none.html", max_pictures=0)
    assert data_of(tmp_path / "none.html")["embedded"] == "No pictures are in this page, only their scores."


def test_what_was_not_measured_of_a_picture_is_left_out(browser, tmp_path):
    evaluation = make_evaluation(tmp_path)
    good, poor = evaluation.methods
    scores = ({}, {}, {}, {"psnr_y": 20.0})
    write_page(
        replace(evaluation, methods=(replace(good, scores=scores), poor)), tmp_path / "page.html", max_pictures=0
    )
    with opened(browser, tmp_path / "page.html") as page:
        first = texts(page, "#summary-table tbody tr:first-child td")
        assert "1 of 4 pictures" in first[0]
        assert first[1] == "– not measured"
        assert page.locator("#summary-table .best").count() == 0  # means over other pictures are no better or worse
        assert page.locator("#viewer").is_hidden()


def test_paired_tests_are_in_the_page(browser, tmp_path):
    evaluation = make_evaluation(tmp_path)
    good, poor = evaluation.methods
    cases, scores = good.cases * 2, tuple({"psnr_y": 30.0 + number} for number in range(8))
    lower = tuple({"psnr_y": score["psnr_y"] - 1 - number / 8} for number, score in enumerate(scores))
    methods = (replace(good, cases=cases, scores=scores), replace(poor, cases=cases, scores=lower))
    write_page(replace(evaluation, methods=methods), tmp_path / "page.html", max_pictures=0)
    with opened(browser, tmp_path / "page.html") as page:
        row = texts(page, "#differences-table tbody tr > *")
        assert row[0] == "poor − good"
        assert row[1] == "-1.438-1.641 to -1.234p 0.008"
        assert row[2].startswith("–")
        assert "is-sure" in (page.locator("#differences-table td").first.get_attribute("class") or "")
    write_page(replace(evaluation, methods=(good,)), tmp_path / "one.html", max_pictures=0)
    with opened(browser, tmp_path / "one.html") as page:
        assert page.locator("#differences").is_hidden()


def test_one_method_without_original_or_input(browser, tmp_path):
    evaluation = make_evaluation(tmp_path)
    good = evaluation.methods[0]
    cases = tuple(replace(case, hr=None, lr=None) for case in good.cases)
    write_page(replace(evaluation, methods=(replace(good, cases=cases),)), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert page.inner_text("h1") == "1 method, 4 pictures"
        wait_for(page, "document.getElementById('tag-left').textContent === 'good'")


def test_damaged_picture_is_named(tmp_path):
    evaluation = make_evaluation(tmp_path)
    evaluation.methods[0].cases[2].restored.write_bytes(b"no picture")
    with pytest.raises(InputError, match=re.escape(str(evaluation.methods[0].cases[2].restored))):
        write_page(evaluation, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
