"""Frames of a video: their order, their shots, what is blended, and folders of them through the command line."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from xpsr.cli import main
from xpsr.evaluation import flicker
from xpsr.files import sha256
from xpsr.image import Picture, resize
from xpsr.sequence import (
    NUM_EARLIER,
    Frame,
    Look,
    Made,
    beginnings,
    blend,
    find_shots,
    in_order,
    look_at,
    needed,
)
from xpsr.sources import Job, Source


def scene(seed: int, width: int = 160, height: int = 90) -> torch.Tensor:
    """A picture (3, height, width) in [0, 1] with detail at several scales and an own brightness."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(3, height, width)
    for cells, weight in ((3, 0.5), (9, 0.3), (30, 0.2)):
        coarse = torch.rand(3, cells, cells, generator=generator)
        pixels += weight * resize(coarse, (height, width))
    return (0.8 * pixels + 0.4 * (torch.rand(3, 1, 1, generator=generator) - 0.4)).clamp(0, 1)


def noisy(pixels: torch.Tensor, number: int, level: float = 5 / 255) -> torch.Tensor:
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1000 + number))
    return (pixels + level * noise).clamp(0, 1)


# Order


def job(name: str) -> Job:
    return Job(source=Source(path=Path(name)), target=Path("out") / name)


def test_frames_come_in_the_order_of_their_numbers() -> None:
    names = ["frame_10.png", "frame_2.png", "frame_1.jpg", "b.png", "Frame_009.png", "a.png", "frame_1_2.png", "7.png"]
    found = [one.source.path.name for one in in_order(map(job, names))]
    assert found == [
        *("7.png", "a.png", "b.png"),
        *("frame_1.jpg", "frame_1_2.png", "frame_2.png", "Frame_009.png", "frame_10.png"),
    ]


def test_frames_of_one_number_have_an_order_too() -> None:
    names = ["f_01.png", "f_1.png", "f_001.png"]
    assert in_order(map(job, names)) == in_order(map(job, reversed(names)))


# Shots


def look(pixels: torch.Tensor) -> Look:
    return look_at(Picture(pixels=pixels))


def starts(frames: Sequence[torch.Tensor]) -> list[int]:
    return beginnings([look(frame) for frame in frames])


def test_no_frames_have_no_shots() -> None:
    assert beginnings([]) == []
    assert find_shots([]) == []


def test_cut_begins_a_shot() -> None:
    frames = [noisy(scene(seed), number) for seed in (1, 2, 3) for number in range(5)]
    assert starts(frames) == [0, 5, 10]


def test_cut_is_found_beside_the_second_frame_and_the_last() -> None:
    assert starts([scene(1), scene(2), scene(2), scene(2), scene(3)]) == [0, 1, 4]


def test_another_size_begins_a_shot() -> None:
    frames = [scene(1), scene(1), scene(1, 80, 45), scene(1, 80, 45)]
    assert starts(frames) == [0, 2]


@pytest.mark.parametrize("speed", [1, 8, 24])
def test_pan_begins_none(speed: int) -> None:
    wide = scene(4, 160 + 24 * 20, 90)
    assert starts([noisy(wide[..., speed * number :][..., :160], number) for number in range(20)]) == [0]


def test_pan_that_starts_at_once_begins_none() -> None:
    wide = scene(4, 400, 90)
    places = [0] * 8 + [16 * number for number in range(1, 12)]
    assert starts([wide[..., place : place + 160] for place in places]) == [0]


@pytest.mark.parametrize("length", [1, 3])
def test_flash_begins_none(length: int) -> None:
    frames = [noisy(scene(1), number) for number in range(12)]
    for number in range(5, 5 + length):
        frames[number] = (frames[number] * 0.3 + 0.7).clamp(0, 1)
    assert starts(frames) == [0]


def test_same_picture_in_another_light_begins_none() -> None:
    assert starts([scene(1) * 0.3] * 6 + [scene(1)] * 6) == [0]


@pytest.mark.parametrize("length", [4, 40])
def test_fade_of_light_begins_none(length: int) -> None:
    assert starts([scene(1)] * 6 + [scene(1) * (1 - 0.8 * number / length) for number in range(length)]) == [0]


def test_fade_through_black_begins_a_shot_where_something_is_seen_again() -> None:
    out = [scene(1) * (1 - number / 8) for number in range(9)]
    into = [scene(2) * (number / 8) for number in range(9)]
    assert starts([*out, *into]) == [0, len(out) + 3]


def test_noise_without_a_picture_begins_none() -> None:
    assert starts([noisy(torch.full((3, 90, 160), 0.5), number, 0.2) for number in range(8)]) == [0]


def frame(pixels: torch.Tensor, name: str = "a.png") -> Frame:
    return Frame(job=job(name), sha256=name, look=look(pixels))


def test_shot_is_described_by_the_frame_with_most_detail_of_its_first_second() -> None:
    fading = [scene(1) * min(0.2 + number / 10, 0.9) for number in range(30)]
    fading[27] = scene(1)  # too late
    (shot,) = find_shots([frame(pixels, f"{number}.png") for number, pixels in enumerate(fading)])
    assert shot.described is shot.frames[7]
    assert find_shots(shot.frames[:20])[0].described == shot.described


def test_frames_before_one_that_waits_are_needed_within_its_shot() -> None:
    frames = [frame(scene(1 + number // 10), f"{number}.png") for number in range(20)]
    shots = find_shots(frames)
    assert [len(shot.frames) for shot in shots] == [10, 10]
    found = [(shot.number, place) for shot, place in needed(shots, {Path("8.png"), Path("11.png")})]
    assert found == [(1, 4), (1, 5), (1, 6), (1, 7), (1, 8), (2, 0), (2, 1)]
    assert list(needed(shots, set())) == []


# Blending


def made(source: torch.Tensor, seed: int) -> Made:
    """A frame, and a result with texture that is another in each frame."""
    texture = torch.randn(3, 4 * source.shape[-2], 4 * source.shape[-1], generator=torch.Generator().manual_seed(seed))
    pixels = resize(source, (texture.shape[-2], texture.shape[-1]))
    return Made(source=source, pixels=(pixels + 0.05 * texture).clamp(0, 1))


def blended(frames: Sequence[Made]) -> list[torch.Tensor]:
    """Results of a shot."""
    return [blend(one, frames[max(number - NUM_EARLIER, 0) : number][::-1]).pixels for number, one in enumerate(frames)]


def test_frame_alone_stays_as_it_is() -> None:
    alone = made(scene(1), 0)
    assert blend(alone, []).pixels is alone.pixels


def test_equal_frames_are_averaged() -> None:
    first, second, third = (made(scene(1), number) for number in range(3))
    found = blend(first, [second, third])
    assert found.weights == [1, 1]
    torch.testing.assert_close(found.pixels, (first.pixels + second.pixels + third.pixels) / 3)


def test_noise_is_no_change_and_flicker_falls() -> None:
    frames = [made(noisy(scene(1), number), number) for number in range(12)]
    clean = [made(scene(1), 0).pixels] * 12
    single, found = (flicker(results, clean) for results in ([one.pixels for one in frames], blended(frames)))
    assert single.still is not None and found.still is not None
    assert found.still < 0.45 * single.still
    errors = [
        float((pixels - resize(scene(1), pixels.shape[-2:])).square().mean())  # type: ignore[arg-type]
        for pixels in (frames[-1].pixels, blended(frames)[-1])
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("level", [0, 5 / 255, 15 / 255])
def test_nothing_is_blended_across_a_cut(level: float) -> None:
    before, after = (made(noisy(scene(seed), seed, level), seed) for seed in (1, 2))
    assert max(blend(after, [before]).weights) < 0.05


def square_at(left: int) -> torch.Tensor:
    """A dark square with some texture before a bright wall."""
    pixels = 0.7 + 0.1 * scene(5, 96, 64)
    pixels[:, 20:44, left : left + 24] = 0.15 + 0.2 * scene(6, 24, 24)
    return pixels


@pytest.mark.parametrize("level", [0, 2 / 255, 6 / 255])
@pytest.mark.parametrize("speed", [1, 3, 8])
def test_moving_square_leaves_no_trail(level: float, speed: int) -> None:
    frames = []
    for number in range(6):
        clean = square_at(8 + speed * number)
        frames.append(Made(source=noisy(clean, number, level), pixels=resize(clean, (256, 384))))
    found = blend(frames[-1], frames[-2:0:-1])
    assert max(found.weights) > 0.5
    assert float((found.pixels - frames[-1].pixels).abs().max()) < 0.05  # its contrast is ten times that


def test_what_moves_all_over_a_frame_is_no_noise() -> None:
    wide = scene(7, 400, 90)
    frames = [made(noisy(wide[..., 40 * number :][..., :160], number), number) for number in range(6)]
    assert max(blend(frames[-1], frames[-2:0:-1]).weights) < 0.05


def test_light_that_changes_slowly_is_followed() -> None:
    frames = [made(noisy(scene(1) * (0.9 - 0.02 * number), number, 3 / 255), number) for number in range(8)]
    for one, pixels in zip(frames, blended(frames), strict=True):
        assert abs(float((pixels - one.pixels).mean())) < 2 / 255


def test_frame_that_is_there_twice_does_not_end_blending() -> None:
    frames = [made(noisy(scene(1), number), number) for number in (0, 1, 2, 2)]
    weights = blend(frames[-1], frames[-2::-1]).weights
    assert weights[0] == 1
    assert min(weights[1:]) > 0.5


def test_a_trail_ends_after_four_frames() -> None:
    """What was before them cannot be in a result, so that nothing drifts and a run can go on anywhere."""
    frames = [made(noisy(scene(1), number), number) for number in range(7)]
    others = [made(noisy(scene(1), 50 + number), 50 + number) for number in range(2)]
    assert torch.equal(blended(frames)[-1], blended([*others, *frames[2:]])[-1])


# The command line


def save_frames(folder: Path, shots: Sequence[int], length: int, size: tuple[int, int] = (16, 12)) -> list[Path]:
    """Frames 1.png, 2.png, ... with noise of their own."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(length * len(shots)):
        pixels = noisy(scene(shots[number // length], *size), number, 3 / 255)
        paths.append(folder / f"{number + 1}.png")
        save(paths[-1], pixels)
    return paths


def save(path: Path, pixels: torch.Tensor) -> None:
    values: NDArray[np.uint8] = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).save(path)


Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    loaded_once: None,
) -> Run:
    """Runs `xpsr upscale --sequence --model TINY ARGUMENTS` in an empty folder; exit code, lines of both streams."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, sequence: bool = True) -> tuple[int, list[str], list[str]]:
        capfd.readouterr()
        given = [*map(str, arguments), *(["--sequence"] if sequence else [])]
        code = main(["upscale", "--model", str(tiny_model), *given])
        out, err = capfd.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


def record_of(number: int, out: str = "outputs") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, f"{number}_x4.json").read_text())
    return found


def digests(out: str = "outputs") -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(Path(out).glob("*.png"))}


NOBODY = ("--describer", "none")


def test_folder_of_frames_is_restored_shot_by_shot(run: Run) -> None:
    frames = save_frames(Path("frames"), (1, 2), 6)
    code, out, err = run("frames")
    assert code == 0
    assert [line.split("  ")[0] for line in out] == [f"outputs/{number}_x4.png" for number in range(1, 13)]
    assert [line for line in err if "shot" in line] == [
        f"xpsr: shot 1: 6 frames, 1.png to 6.png, described by {record_of(1)['sequence']['described']}.",
        f"xpsr: shot 2: 6 frames, 7.png to 12.png, described by {record_of(7)['sequence']['described']}.",
    ]
    assert len({record_of(number)["seed"] for number in range(1, 13)}) == 1
    assert len({json.dumps(record_of(number)["prior"]) for number in range(1, 7)}) == 1
    hashes = [sha256(path) for path in frames]
    last = record_of(6)["sequence"]
    assert (last["shot"], last["frame"]) == (1, 6)
    assert last["described_sha256"] == sha256(Path("frames", last["described"]))
    assert last["previous_sha256"] == hashes[4:0:-1]
    assert len(last["weights"]) == 4 and min(last["weights"]) > 0.3
    first = record_of(7)["sequence"]
    assert (first["shot"], first["frame"], first["previous_sha256"], first["weights"]) == (2, 1, [], [])


def test_first_frame_of_a_shot_is_what_a_picture_alone_gives(run: Run) -> None:
    save_frames(Path("frames"), (1, 2), 3)
    assert run("frames", *NOBODY, "--seed", 5)[0] == 0
    assert run("frames/4.png", *NOBODY, "--seed", 5, "-o", "alone", sequence=False)[0] == 0
    assert digests()["4_x4.png"] == digests("alone")["4_x4.png"]


def test_frame_with_earlier_ones_agrees_with_its_record(run: Run) -> None:
    save_frames(Path("frames"), (1,), 5)
    assert run("frames", *NOBODY, "--map", "maps")[0] == 0
    assert run("frames", *NOBODY, "-o", "alone", "--seed", record_of(1)["seed"], sequence=False)[0] == 0
    found, alone = record_of(5), record_of(5, "alone")
    assert digests()["5_x4.png"] != digests("alone")["5_x4.png"]
    assert found["output_sha256"] == digests()["5_x4.png"]
    assert found["map_sha256"] == sha256(Path("maps/5_x4.png"))
    assert found["fidelity"] != alone["fidelity"]
    assert found["settings"] == alone["settings"]


def test_equal_frames_have_equal_results(run: Run) -> None:
    """The noise that a model starts from lies the same in every frame."""
    (path,) = save_frames(Path("frames"), (1,), 1)
    for number in (2, 3):
        shutil.copy(path, f"frames/{number}.png")
    assert run("frames", *NOBODY)[0] == 0
    assert len(set(digests().values())) == 1


@pytest.mark.parametrize(
    "lost", [{6}, {2, 3, 9}, *(pytest.param(lost, marks=pytest.mark.slow) for lost in ({8, 9, 10}, {1}))]
)
def test_interrupted_run_goes_on_to_the_bit(run: Run, lost: set[int]) -> None:
    save_frames(Path("frames"), (1, 2), 5)
    assert run("frames", *NOBODY)[0] == 0  # with a seed that it draws
    whole = digests()
    for number in lost:
        Path(f"outputs/{number}_x4.png").unlink()
        Path(f"outputs/{number}_x4.json").unlink()
    code, out, err = run("frames", *NOBODY)
    assert code == 0
    assert len(out) == len(lost)
    assert err[-1].startswith(f"xpsr: {10 - len(lost)} of 10 pictures were done already")
    assert digests() == whole


def test_what_is_done_is_passed_over(run: Run) -> None:
    save_frames(Path("frames"), (1,), 3)
    assert run("frames")[0] == 0
    code, out, err = run("frames", "--json")
    assert code == 0
    assert [json.loads(line)["status"] for line in out] == ["done"] * 3
    assert err == ["xpsr: 3 of 3 pictures were done already; --on-existing overwrite makes them again."]


def test_changed_frame_is_made_again_with_the_four_after_it(run: Run) -> None:
    save_frames(Path("frames"), (1,), 9)
    assert run("frames", *NOBODY)[0] == 0
    save(Path("frames/3.png"), noisy(scene(1, 16, 12), 99, 3 / 255))
    code, out, _ = run("frames", *NOBODY)
    assert code == 0
    assert [line.split("  ")[0] for line in out] == [f"outputs/{number}_x4.png" for number in (3, 4, 5, 6, 7)]
    assert run("frames", *NOBODY, "--seed", record_of(1)["seed"], "-o", "whole")[0] == 0
    assert digests() == digests("whole")


def test_frames_that_are_added_leave_the_others_alone(run: Run) -> None:
    save_frames(Path("frames"), (1,), 6)
    for number in (5, 6):
        Path(f"frames/{number}.png").rename(f"{number}.png")
    assert run("frames", *NOBODY)[0] == 0
    for number in (5, 6):
        Path(f"{number}.png").rename(f"frames/{number}.png")
    code, out, _ = run("frames", *NOBODY)
    assert (code, len(out)) == (0, 2)


def test_frames_that_are_added_do_not_describe_a_shot_that_was_described(run: Run) -> None:
    Path("frames").mkdir()
    for number, light in enumerate((0.3, 0.35, 0.3, 0.3, 1, 0.9), 1):
        if number == 5:  # with more to see
            assert run("frames")[0] == 0
            before = digests()
        save(Path(f"frames/{number}.png"), light * scene(1, 16, 12))
    code, out, err = run("frames")
    assert (code, len(out), len([line for line in err if "shot" in line])) == (0, 2, 1)
    assert before.items() <= digests().items()
    assert {record_of(number)["sequence"]["described"] for number in range(1, 7)} == {"2.png"}
    assert len(run("frames", "--on-existing", "overwrite")[1]) == 6
    assert record_of(1)["sequence"]["described"] == "5.png"  # whoever wants all again has the best
    assert run("frames")[1] == []
    Path("frames/5.png").unlink()
    assert len(run("frames")[1]) == 5
    assert record_of(1)["sequence"]["described"] == "6.png"


def test_single_frames_and_a_sequence_are_told_apart(run: Run) -> None:
    save_frames(Path("frames"), (1,), 3)
    for sequence in (False, True, False):
        code, out, _ = run("frames", *NOBODY, "--seed", 1, sequence=sequence)
        assert (code, len(out)) == (0, 3)
        assert ("sequence" in record_of(3)) == sequence


def test_frame_that_cannot_be_read_is_left_out(run: Run) -> None:
    save_frames(Path("frames"), (1,), 4)
    Path("frames/2.png").write_bytes(b"no picture")
    code, out, err = run("frames", *NOBODY)
    assert (code, len(out)) == (1, 3)
    assert "frames/2.png" in err[0]
    assert record_of(3)["sequence"]["previous_sha256"] == [sha256(Path("frames/1.png"))]


def test_priors_are_those_of_the_frame_that_describes_the_shot(run: Run) -> None:
    save_frames(Path("frames"), (1, 2), 3)
    _, _, err = run("frames", "--dry-run")
    described = [line.rsplit(" ", 1)[-1].removesuffix(".") for line in err if "described by" in line]
    assert len(described) == 2
    assert not Path("outputs").exists()
    lines = [{"image": f"frames/{name}", "content": f"shot {number}"} for number, name in enumerate(described, 1)]
    Path("priors.jsonl").write_text("".join(json.dumps({**line, "quality": "noisy"}) + "\n" for line in lines))
    assert run("frames", "--priors", "priors.jsonl")[0] == 0
    contents = [record_of(number)["prior"]["content"] for number in range(1, 7)]
    assert contents == ["shot 1"] * 3 + ["shot 2"] * 3
    Path("priors.jsonl").write_text(json.dumps({**lines[0], "quality": "noisy"}) + "\n")
    code, out, err = run("frames", "--priors", "priors.jsonl")
    assert (code, out) == (1, [])
    assert len([line for line in err if described[1] in line]) == 3


def test_texts_that_are_given_are_those_of_all_shots(run: Run) -> None:
    save_frames(Path("frames"), (1, 2), 2)
    assert run("frames", "--content", "a wall", "--quality", "noisy")[0] == 0
    assert {record_of(number)["prior"]["content"] for number in range(1, 5)} == {"a wall"}
    assert record_of(1)["sequence"]["described"] is None


def test_frames_with_transparency_stay_so(run: Run) -> None:
    Path("frames").mkdir()
    for number in range(3):
        values = (noisy(scene(1, 16, 12), number) * 255).byte().permute(1, 2, 0).numpy()
        image = Image.fromarray(values)
        image.putalpha(Image.linear_gradient("L").resize((16, 12)))
        image.save(f"frames/{number}.png")
    assert run("frames", *NOBODY)[0] == 0
    with Image.open("outputs/2_x4.png") as image:
        assert image.mode == "RGBA"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.png"], "xpsr: --sequence takes a folder of frames, which a.png is not;"),
        (["-"], "xpsr: --sequence takes a folder of frames, which - is not;"),
        (["frames", "others"], "xpsr: --sequence takes one folder of frames, not 2 inputs;"),
        (["frames", "-r"], "xpsr: --sequence takes the frames of one folder; leave --recursive out"),
        (["frames", "-o", "one.png"], "xpsr: -o one.png is for one picture; name a folder with -o for several."),
    ],
)
def test_what_is_no_folder_of_frames_is_refused(run: Run, arguments: list[str], line: str) -> None:
    save_frames(Path("frames"), (1,), 2)
    shutil.copy("frames/1.png", "a.png")
    code, out, err = run(*arguments)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(line)
