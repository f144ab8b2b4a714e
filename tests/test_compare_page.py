"""The page of a blind comparison: what voters see and cannot see, how they vote, and what is saved."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import data_of, mean_levels, opened, wait_for
from PIL import Image

from xpsr.cli import main
from xpsr.errors import InputError
from xpsr.evaluation import comparison, rank_votes, write_comparison

LEVELS = {"secretly": 40, "hiddenly": 120, "covertly": 200}
PICTURES = ("walrus", "xylophone")


def save(path: Path, level: int, *, size: tuple[int, int] = (48, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), level) + np.arange(3)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def make_folders(folder: Path, *, methods: int = 3, end: str = "") -> dict[str, Path]:
    """Methods by name; their pictures are all of one level each."""
    chosen = dict(itertools.islice(LEVELS.items(), methods))
    for (method, level), name in itertools.product(chosen.items(), PICTURES):
        save(folder / method / f"{name}{end}.png", level)
    return {method: folder / method for method in chosen}


def pictures_of(folder: Path) -> Any:
    return data_of(folder / "index.html")["pictures"]


def key_of(folder: Path) -> Any:
    return json.loads((folder / "key.json").read_text(encoding="utf-8"))


def saved_votes(page: Any, path: Path) -> Any:
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(path)
    return json.loads(path.read_text(encoding="utf-8"))


def wait_for_pair(page: Any, number: int) -> None:
    wait_for(page, f"document.getElementById('progress').textContent.startsWith('Pair {number} ')")
    wait_for(page, "document.getElementById('stage').getAttribute('aria-busy') === 'false'")


def sides_of(page: Any) -> list[float]:
    return mean_levels(page, "#stage", (0.25, 0.5), (0.75, 0.5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    write_comparison(make_folders(folder), folder / "page")
    return folder / "page"


def test_page_tells_no_names(made):
    page = (made / "index.html").read_text(encoding="utf-8")
    for name in (*LEVELS, *PICTURES):
        assert name not in page
    key = key_of(made)
    assert sorted(key["methods"].values()) == sorted(LEVELS)
    assert sorted(key["pictures"].values()) == sorted(PICTURES)
    assert all(token in page for token in (*key["methods"], *key["pictures"], key["key"]))


def test_every_pair_of_every_picture_is_seen_once_with_both_sides_at_random(browser, made, tmp_path):
    sides = []
    with opened(browser, made / "index.html") as page:
        for number in range(1, 7):
            wait_for_pair(page, number)
            left, right = sides_of(page)
            page.keyboard.press(("ArrowLeft", "ArrowRight", "ArrowUp")[number % 3])
            sides.append((round(left) - 1, round(right) - 1))
        page.wait_for_selector("#done")
        ballot = saved_votes(page, tmp_path / "votes.json")
        with page.expect_download():
            page.click("#another")
        wait_for_pair(page, 1)
        page.keyboard.press("ArrowUp")
        wait_for_pair(page, 2)
        assert saved_votes(page, tmp_path / "other.json")["voter"] != ballot["voter"]
    key = key_of(made)
    votes = ballot.pop("votes")
    voter = ballot.pop("voter")
    assert re.fullmatch("[0-9a-f]{16}", voter)
    assert ballot == {"kind": "xpsr votes", "version": 1, "key": key["key"], "pairs": 6}
    pairs = {(vote["picture"], *sorted((vote["left"], vote["right"]))) for vote in votes}
    assert len(pairs) == len(votes) == 6
    assert [vote["choice"] for vote in votes] == ["right", "tie", "left"] * 2
    assert all(0 <= vote["seconds"] < 60 for vote in votes)
    # what was on a side is what the key says of its token
    assert sides == [tuple(LEVELS[key["methods"][vote[side]]] for side in ("left", "right")) for vote in votes]
    ranking = rank_votes([tmp_path / "votes.json", tmp_path / "other.json"], key=made / "key.json")
    assert (ranking.num_votes, ranking.num_ties, ranking.num_pictures, ranking.num_voters) == (7, 3, 2, 2)


def test_voters_have_orders_and_sides_of_their_own(browser, made):
    code = "Array.from({length: 20}, (_, at) => JSON.stringify(orderOf(readData(), `v${at}`)"
    code += ".map((pair) => [pair.picture.token, pair.left, pair.right])))"
    with opened(browser, made / "index.html") as page:
        orders = page.evaluate(code)
        assert orders == page.evaluate(code)
    assert len(set(orders)) > 15
    lefts = [json.loads(order)[0][1] for order in orders]
    assert len(set(lefts)) == 3


def test_votes_survive_a_reload_and_can_be_taken_back(browser, made, tmp_path):
    with opened(browser, made / "index.html") as page:
        assert page.locator("#undo").is_disabled() and page.locator("#export").is_disabled()
        wait_for_pair(page, 1)
        page.keyboard.press("ArrowLeft")
        wait_for_pair(page, 2)
        page.click("#vote-tie")
        wait_for_pair(page, 3)
        page.keyboard.press(" ")  # flips, though a button was clicked before
        wait_for(page, "document.getElementById('tags').textContent === 'Left'")
        before = saved_votes(page, tmp_path / "before.json")
        page.reload()
        wait_for_pair(page, 3)
        assert saved_votes(page, tmp_path / "after.json") == before
        page.keyboard.press("u")
        wait_for_pair(page, 2)
        page.keyboard.press("ArrowRight")
        wait_for_pair(page, 3)
        changed = saved_votes(page, tmp_path / "changed.json")
        assert [vote["choice"] for vote in changed["votes"]] == ["left", "right"]
        again = {name: changed["votes"][1][name] for name in ("picture", "left", "right")}
        assert again.items() <= before["votes"][1].items()
        assert changed["voter"] == before["voter"]


@pytest.mark.slow
def test_two_windows_of_one_browser_are_one_voter(browser, made, tmp_path):
    address = (made / "index.html").as_uri()
    with opened(browser, address) as page:
        wait_for_pair(page, 1)
        other = page.context.new_page()
        other.goto(address)
        wait_for_pair(other, 1)
        other.keyboard.press("ArrowLeft")
        wait_for_pair(other, 2)
        wait_for_pair(page, 2)  # what is left to see is told to the first, too
        page.keyboard.press("ArrowUp")
        wait_for_pair(other, 3)
        ballots = [saved_votes(one, tmp_path / "votes.json") for one in (page, other)]
        assert ballots[0] == ballots[1]
        assert [vote["choice"] for vote in ballots[0]["votes"]] == ["left", "tie"]


def test_flipping_shows_one_in_the_place_of_the_other(browser, made):
    with opened(browser, made / "index.html") as page:
        wait_for_pair(page, 1)
        left, right = sides_of(page)
        for key, label, level in (("ArrowDown", "Left", left), (" ", "Right", right), (" ", "Left", left)):
            page.keyboard.press(key)
            wait_for(page, f"document.getElementById('tags').textContent === '{label}'")
            assert mean_levels(page, "#stage", (0.5, 0.5)) == pytest.approx([level], abs=2)
        page.keyboard.press("b")
        wait_for(page, "document.getElementById('tags').textContent === 'LeftRight'")
        page.keyboard.press("c")  # nothing is shown beside them
        assert page.locator("#context").is_hidden()


def test_input_and_original_are_shown_beside(browser, tmp_path):
    methods = make_folders(tmp_path, methods=2, end="_x4")
    for name in PICTURES:
        save(tmp_path / "lr" / f"{name}.jpg", 90, size=(12, 8))
        save(tmp_path / "hr" / f"{name}.png", 240)
    write_comparison(methods, tmp_path / "page", lr=tmp_path / "lr", ref=tmp_path / "hr")
    with opened(browser, tmp_path / "page" / "index.html") as page:
        assert page.inner_text("h1") == "Which is closer to the original?"
        wait_for_pair(page, 1)
        assert mean_levels(page, "#stage", (0.86, 0.25), (0.86, 0.75)) == pytest.approx([91, 241], abs=3)
        page.keyboard.press("c")
        wait_for(page, "document.getElementById('tags').textContent === 'LeftRight'")


def test_page_is_dark_and_narrow_where_asked(browser, made):
    with opened(browser, made / "index.html", color_scheme="dark", viewport={"width": 360, "height": 700}) as page:
        wait_for_pair(page, 1)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 21, 19)"


def test_same_seed_writes_the_same_page_and_another_draws_others(tmp_path):
    methods = make_folders(tmp_path)
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_comparison(methods, tmp_path / name, seed=seed, max_pictures=1)
    one, two, three = ((tmp_path / name / "index.html").read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three
    assert len(pictures_of(tmp_path / "one")) == 1


def test_metadata_and_names_of_files_do_not_reach_the_page(tmp_path):
    methods = make_folders(tmp_path, methods=2)
    exif = Image.Exif()
    exif[0x010E] = "made by secretly"
    for path in methods["secretly"].iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), exif=exif, quality=100)
        path.unlink()
    write_comparison(methods, tmp_path / "page")
    for picture in pictures_of(tmp_path / "page"):
        for address in picture["results"].values():
            assert address.startswith("data:image/webp;base64,UklGR")
            assert "c2VjcmV0bHk" not in address


def test_turned_pictures_are_compared_upright(tmp_path):
    methods = make_folders(tmp_path, methods=2)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    with Image.open(methods["secretly"] / "walrus.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(methods["secretly"] / "walrus.png", exif=exif)
    write_comparison(methods, tmp_path / "page")
    assert {(picture["width"], picture["height"]) for picture in pictures_of(tmp_path / "page")} == {(48, 32)}


def test_large_pictures_are_shown_in_the_middle(tmp_path):
    for method, level in (("a", 10), ("b", 90)):
        save(tmp_path / method / "wide.png", level, size=(1300, 8))
    write_comparison({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path / "page")
    (picture,) = pictures_of(tmp_path / "page")
    assert (picture["width"], picture["height"]) == (1152, 8)
    assert picture["note"] == "The middle 1152 × 8 of 1300 × 8 pixels."


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says when it refuses: one line, exit code 2."""
    assert main(["compare", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_command_writes_both_files_and_names_them(tmp_path, capsys):
    methods = make_folders(tmp_path)
    assert main(["compare", *map(str, methods.values()), "-o", str(tmp_path / "page"), "--names", "x,y,z"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "page" / name) for name in ("index.html", "key.json")]
    assert sorted(key_of(tmp_path / "page")["methods"].values()) == ["x", "y", "z"]


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path, capsys):
    for parent in ("one", "two"):
        save(tmp_path / parent / "out" / "a.png", 10)
    folders = [str(tmp_path / parent / "out") for parent in ("one", "two")]
    assert main(["compare", *folders, "-o", str(tmp_path / "page")]) == 0
    assert sorted(key_of(tmp_path / "page")["methods"].values()) == folders


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, capsys):
    a, b = make_folders(tmp_path, methods=2).values()
    out = ("-o", tmp_path / "page")
    assert "-o PAGE" in refusal(capsys, a, b)
    assert "two folders or more" in refusal(capsys, a, *out)
    assert "--names are 1, and folders 2" in refusal(capsys, a, b, *out, "--names", "x")
    assert "one name" in refusal(capsys, a, b, *out, "--names", "x,x")
    assert f"{a}: is given twice" in refusal(capsys, a, a, *out, "--names", "x,y")
    assert "is given twice" in refusal(capsys, a, b / ".." / a.name, *out, "--names", "x,y")
    assert f"{tmp_path / 'none'}: cannot be read" in refusal(capsys, a, tmp_path / "none", *out)
    assert f"{a / 'walrus.png'}: is not a folder" in refusal(capsys, a / "walrus.png", b, *out)
    assert "--max-pictures 0 is not 1 or more" in refusal(capsys, a, b, *out, "--max-pictures", 0)
    (tmp_path / "loop").symlink_to("loop")
    assert f"{tmp_path / 'loop'}: cannot be read" in refusal(capsys, a, tmp_path / "loop", *out)
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: holds no pictures" in refusal(capsys, a, tmp_path / "empty", *out)

    extra = save(a / "yak.png", 1)
    assert f"{b}: has no picture for {extra}" in refusal(capsys, a, b, *out)
    assert f"{a}: holds {extra}, for which there is none in {b}" in refusal(capsys, b, a, *out)
    extra.unlink()
    twin = save(a / "walrus.jpg", 1)
    assert f"{a / 'walrus.jpg'} and {a / 'walrus.png'} have one name, walrus" in refusal(capsys, a, b, *out)
    twin.unlink()
    save(a / "walrus.png", 1, size=(48, 33))
    said = refusal(capsys, a, b, *out)
    assert "has 48x3" in said and str(a / "walrus.png") in said and str(b / "walrus.png") in said
    (a / "walrus.png").write_bytes(b"")
    assert str(a / "walrus.png") in refusal(capsys, a, b, *out)
    assert not (tmp_path / "page").exists()


def test_page_that_votes_may_be_of_is_not_replaced(tmp_path, capsys):
    a, b = make_folders(tmp_path, methods=2).values()
    command = ["compare", str(a), str(b), "-o", str(tmp_path / "page")]
    assert main(command) == 0
    assert main(command) == 0  # it is the same
    capsys.readouterr()
    assert "belongs to another comparison" in refusal(capsys, *command[1:], "--seed", 1)
    assert key_of(tmp_path / "page")["seed"] == 0


def test_page_without_a_key_is_somebodys(tmp_path, capsys):
    a, b = make_folders(tmp_path, methods=2).values()
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("mine")
    said = refusal(capsys, a, b, "-o", tmp_path / "page")
    assert f"{tmp_path / 'page' / 'index.html'}: is there already, without the key.json of a page" in said
    assert (tmp_path / "page" / "index.html").read_text() == "mine"


def test_too_many_pictures_for_a_page_are_refused_with_a_number_that_fits(tmp_path, capsys, monkeypatch):
    methods = make_folders(tmp_path, methods=2)
    monkeypatch.setattr(comparison, "MAX_BYTES", 200)
    with pytest.raises(InputError, match="max_pictures=2 is too many"):
        write_comparison(methods, tmp_path / "page")
    assert "use 1." in refusal(capsys, *methods.values(), "-o", tmp_path / "page")
