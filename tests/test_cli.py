"""The command line, from arguments to files, lines and exit codes, with a tiny untrained model."""

import errno
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import by_oiio
from PIL import Image
from safetensors.torch import load_file, save_file

import xpsr
from xpsr import XPSRPipeline
from xpsr.cli import COMMANDS, main
from xpsr.cli.doctor import _checked
from xpsr.config import as_dict
from xpsr.devices import SelfCheck, fast_dtypes, resolve_device, resolve_dtype, self_check
from xpsr.errors import InputError
from xpsr.files import sha256
from xpsr.image import MAX_PIXELS, read_image
from xpsr.model_files import checksums, refuse_settings

ROOT = Path(__file__).parents[1]


@dataclass
class Result:
    code: int
    out: list[str]
    err: list[str]


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `xpsr ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out.splitlines(), captured.err.splitlines())

    return run


@pytest.fixture
def upscale(run: Run, tiny_model: Path, loaded_once: None) -> Run:
    """Runs `xpsr upscale --model TINY --describer none ARGUMENTS`."""
    return lambda *arguments: run("upscale", "--model", tiny_model, "--describer", "none", *arguments)


def save_photo(path: Path | str, mode: str = "RGB", size: tuple[int, int] = (7, 5), seed: int = 0) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def files(folder: str | Path = "outputs") -> list[str]:
    """All names in a folder, hidden ones too; none if it is not there."""
    return sorted(path.name for path in Path(folder).glob("*"))


def open_image(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def one_line(result: Result, *parts: str) -> str:
    """The only line on stderr, which holds all `parts`; stdout is empty."""
    assert result.out == []
    assert len(result.err) == 1, result.err
    assert all(part in result.err[0] for part in parts), result.err
    assert result.err[0].startswith("xpsr: ")
    return result.err[0]


# Help and options


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *([name, "--help"] for name in COMMANDS),
    ],
)
def test_help_answers_at_once(arguments: list[str]) -> None:
    times = []
    for _ in range(3):  # the machine may be busy; 0.5 s are promised
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "xpsr", *arguments], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        if times[-1] < 0.5:
            break
    assert done.stdout.startswith("usage: xpsr") and done.stderr == ""
    assert min(times) < 1, times


@pytest.mark.parametrize(("given", "kept"), [(None, "passive"), ("active", "active")])
def test_threads_of_torch_sleep_while_they_wait_unless_told_otherwise(given: str | None, kept: str) -> None:
    code = (
        "import os, sys, xpsr.cli; xpsr.cli.main(['help', 'nothing'])\n"
        "assert 'torch' not in sys.modules  # which reads it when it is imported\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == kept


def test_help_names_defaults_and_train_sections(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, parts in (
        (["upscale", "--help"], ["(default: mini)", "(default: 4, or 2 or 1 where", "(default: outputs)"]),
        (["train", "--help"], ["--train.max_steps=1000", "--data.degradation", "--loss.content_dropout=0.15"]),
        (["--version"], [f"xpsr {xpsr.__version__}"]),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        out = " ".join(capsys.readouterr().out.split())  # however wide the terminal is
        assert all(part in out for part in parts)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["upscale", "--stps", "4", "a.png"], "xpsr: unknown option --stps; did you mean --steps?"),
        (["upscale", "--step=4", "a.png"], "xpsr: unknown option --step; did you mean --steps?"),
        (["upscale", "a.png", "--0000"], "xpsr: unknown option --0000; see xpsr upscale --help."),
        (["doctor", "--jsn"], "xpsr: unknown option --jsn; did you mean --json?"),
        (["doctor", "more"], "xpsr: unexpected argument more; see xpsr doctor --help."),
        (["degrade", "a", "b", "--", "-c"], "xpsr: unexpected argument -c; see xpsr degrade --help."),
        (["upscal", "a.png"], "xpsr: unknown command upscal; did you mean upscale?"),
        (
            ["a"],
            "xpsr: unknown command a; there are: upscale, batch, serve, describe, degrade, data, train, evaluate,"
            " compare, benchmark, convert, export, doctor.",
        ),
        (["a b.JPG"], "xpsr: unknown command a b.JPG; to restore it: xpsr upscale 'a b.JPG'"),
        (["."], "xpsr: unknown command .; to restore it: xpsr upscale ."),
        (["upscale", ""], "xpsr: an empty name is no picture; is a variable of the shell empty?"),
        (["upscale", "a.png", "-o", ""], "xpsr: -o is empty; name a folder, or FILE.png for one picture."),
        (["upscale"], "xpsr: no INPUT; name pictures or folders, as in: xpsr upscale photo.jpg."),
        (["upscale", "a.png", "--scale"], "xpsr: argument --scale: expected one argument; see xpsr upscale --help."),
        (["upscale", "a.png", "--steps", "0"], "xpsr: --steps 0 is not in [1, 10000]; use 1 to 50."),
        (["upscale", "a.png", "--scale", "0"], "xpsr: --scale 0 is not in [0.0625, 16]; use 4, for example."),
        (["upscale", "a.png", "--scale", "nan"], "xpsr: --scale nan is not in [0.0625, 16]; use 4, for example."),
        (["upscale", "a.png", "--scale", "1e-9"], "xpsr: --scale 1e-09 is not in [0.0625, 16]; use 4, for example."),
        (["upscale", "a.png", "--seed", "-1"], f"xpsr: --seed -1 is not in [0, {2**63 - 1}]; use 0, for example."),
        (["upscale", "a.png", "--dtype", "fp16", "--device", "cpu"], "xpsr: --dtype fp16 is about 20 times slower"),
        (["upscale", "a.png", "--device", "abacus"], "xpsr: --device abacus is not there; this machine has: "),
        (["upscale", "a.png", "--config", "no.yaml"], "xpsr: no.yaml: no such config file"),
        (["train"], "xpsr: the following arguments are required: CONFIG.yaml; see xpsr train --help."),
        (["train", "no.yaml"], "xpsr: no.yaml: no such config file"),
    ],
)
def test_wrong_option_is_one_line_and_exit_code_2(run: Run, arguments: list[str], line: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert one_line(result).startswith(line)


@pytest.mark.parametrize(("arguments", "usage"), [([], "xpsr [-h]"), (["upscale"], "xpsr upscale INPUT")])
def test_help_is_a_command_too(arguments: list[str], usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["help", *arguments])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {usage}")


def test_no_command_shows_help_on_stderr(run: Run) -> None:
    result = run()
    assert (result.code, result.out) == (2, [])
    assert result.err[0].startswith("usage: xpsr")


@pytest.mark.parametrize("options", [["--scale", "1000"], ["--strength", "2"], ["--tile-size", "15"]])
def test_setting_that_the_model_refuses_is_told_once(upscale: Run, options: list[str]) -> None:
    save_photo("a.png"), save_photo("b.png")
    result = upscale("a.png", "b.png", *options)
    assert result.code == 2
    one_line(result, options[1])
    assert files() == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--longest", "300000"], "a.png: --longest 300000 makes "),
        (["--longest", "9000"], "a.png: --longest 9000 makes 9000 x 6300 of 10 x 7, more than 16 times as long"),
        (["--steps", "8"], "--steps 8 is more than the one step that this model has learned; use 1."),
        (["--preset", "paper"], "--steps 20 is more than the one step"),
    ],
)
def test_what_header_and_options_tell_is_told_before_torch_is_loaded(
    options: list[str], line: str, tmp_path: Path
) -> None:
    save_photo(tmp_path / "a.png", size=(10, 7))
    code = "import sys\nfrom xpsr.cli import main\nmain(sys.argv[1:])\nassert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "upscale", "a.png", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.startswith(f"xpsr: {line}"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_a_folder_does_not_tell_is_left_to_the_model_itself(tiny_model: Path, tmp_path: Path) -> None:
    refuse_settings(tiny_model, None, {"num_shifts": 7, "tile_size": 15, "fidelity": 0.5, "num_inference_steps": 1})
    with pytest.raises(InputError, match="1000 timesteps"):
        refuse_settings(tiny_model, None, {"num_inference_steps": 2000})
    refuse_settings(tmp_path, None, {"num_inference_steps": 2000})


@pytest.mark.parametrize(
    "options", [["--model", "nobody/nothing", "--describer", "none"], ["--describer", "nobody/nothing"]]
)
def test_a_hub_out_of_reach_is_one_line(run: Run, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    save_photo("a.png")
    result = run("upscale", "a.png", *options)
    assert result.code == 1
    one_line(result, "nobody/nothing: the hub cannot be reached; check the network, or give a folder.")
    assert files() == []


def test_unknown_model_is_suggested(run: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.model_files.bundled_models", lambda: {"mini": tiny_model})
    save_photo("a.png")
    result = run("upscale", "a.png", "--model", "minni", "--describer", "none")
    assert result.code == 2
    one_line(result, "--model minni is no model; did you mean 'mini'?")
    assert files() == []


@pytest.mark.parametrize("part", ["unet", "controlnet", "vae", "text_encoder"])
def test_weights_that_do_not_match_are_listed(run: Run, tiny_model: Path, tmp_path: Path, part: str) -> None:
    save_photo("a.png")
    model = shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("checksums.json"))
    (path,) = (model / part).glob("*.safetensors")
    state = load_file(path)
    gone = sorted(state)[0]
    state["one.too.many"] = state.pop(gone)
    save_file(state, path, {"format": "pt"})
    result = run("upscale", "a.png", "--model", model)
    assert result.code == 1
    one_line(result, str(model / part), f"missing: {gone}", "unexpected: one.too.many")
    assert files() == []


def test_a_model_without_tokenizer_makes_no_picture(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    save_photo("a.png")
    model = shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer"))
    result = run("upscale", "a.png", "--model", model, "--describer", "none")
    assert result.code == 1
    one_line(result, f"{model / 'tokenizer'}: neither tokenizer.json nor vocab.json there; ")
    assert files() == []


# Pictures that cannot be used


def test_each_bad_input_is_one_line_and_the_good_are_restored(upscale: Run) -> None:
    save_photo("good.png")
    Path("text.jpg").write_text("not a picture")
    Path("nothing.png").write_bytes(b"")
    Path("flat.png").write_bytes(png_of_size(0, 5))
    Path("absurd.png").write_bytes(png_of_size(100_000, 100_000))
    whole = save_photo("whole.png", size=(64, 64)).read_bytes()
    Path("truncated.png").write_bytes(whole[: len(whole) // 2])
    Path("empty").mkdir()
    Path("notes").mkdir()
    Path("notes", "readme.txt").write_text("no picture")
    bad = ["text.jpg", "nothing.png", "flat.png", "absurd.png", "truncated.png", "gone.jpg", "empty", "notes"]
    said = {
        "text.jpg": "is not an image",
        "nothing.png": "is empty (0 bytes)",
        "flat.png": "",
        "absurd.png": f"exceed the limit of {MAX_PIXELS}",
        "truncated.png": "is truncated or damaged",
        "gone.jpg": "No such file",
        "empty": "holds no pictures",
        "notes": "holds no pictures",
    }
    result = upscale(*bad[:4], "good.png", *bad[4:])
    assert result.code == 1
    assert [line.split()[0] for line in result.out] == [str(Path("outputs", "good_x4.png"))]
    lines = {line.removeprefix("xpsr: ").partition(":")[0]: line for line in result.err}
    assert sorted(lines) == sorted(bad) and len(result.err) == len(bad)
    for name, text in said.items():
        assert text in lines[name] and "--debug" not in lines[name]
    assert files() == ["good_x4.json", "good_x4.png"]


def test_pictures_of_a_phone_fail_with_the_remedy_and_other_formats_are_told(
    upscale: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_photo("album/good.png")
    Path("album", "photo.psd").touch()
    Path("album", "iphone.HEIC").write_bytes(b"\x00\x00\x00\x1cftypheic" + bytes(100))
    Path("album", "raw.nef").touch()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    result = upscale("album")
    assert result.code == 1
    assert [line.split()[0] for line in result.out] == [str(Path("outputs", "good_x4.png"))]
    passed_over, failed = result.err
    assert passed_over == (
        "xpsr: album: passed over: 2 files (photo.psd, raw.nef; convert to PNG or TIFF to have them)."
    )
    assert failed.startswith(f"xpsr: {Path('album', 'iphone.HEIC')}: ")
    assert failed.endswith("; run: pip install pillow-heif.")


def test_limits_of_what_is_read_are_flags(upscale: Run) -> None:
    content = save_photo("a.png", size=(16, 16)).read_bytes()
    Path("cut.png").write_bytes(content[: len(content) // 2])
    for flag, number, what in (("--max-pixels", 255, "16 x 16 pixels exceed"), ("--max-bytes", 99, "has more than")):
        result = upscale("a.png", flag, str(number), "--on-existing", "overwrite")
        assert result.code == 1
        one_line(result, "a.png: ", f"{what} the limit of {number}")
        assert upscale("a.png", flag, str(2**30), "--on-existing", "overwrite").code == 0
    assert upscale("cut.png").code == 1
    assert upscale("cut.png", "--accept-truncated").code == 0 and "cut_x4.png" in files()


def test_result_too_large_for_memory_is_refused(upscale: Run) -> None:
    save_photo("wide.png", "L", (9000, 600))
    result = upscale("wide.png", "--scale", "16")
    assert result.code == 1
    one_line(result, "wide.png: ", "--scale 16 makes 1382 megapixels of 9000 x 600, more than 1074; use 14 or less.")
    assert files() == []


def test_failures_are_json_lines_too(upscale: Run) -> None:
    save_photo("a.png")
    result = upscale("gone.png", "a.png", "--json")
    failure, success = map(json.loads, result.out)
    assert result.code == 1 and len(result.err) == 1
    assert failure == {
        "input": "gone.png",
        "status": "failed",
        "error": result.err[0].removeprefix("xpsr: "),
        "code": "not_found",
        "remedy": "check the path",
    }
    named = {"input": "a.png", "output": str(Path("outputs", "a_x4.png")), "status": "restored"}
    assert success == {**read_json("outputs/a_x4.json"), **named}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("surprise\nof two lines"),
            "unexpected RuntimeError: surprise of two lines; run again with --debug",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried 1 byte"), "--tile-size"),
        (MemoryError(), "smaller --tile-size"),
    ],
)
def test_unexpected_errors_are_one_line_a_picture(
    upscale: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(path: Path, **options: Any) -> None:
        raise error

    save_photo("a.png"), save_photo("b.png")
    monkeypatch.setattr("xpsr.batch.restoring.read_image", fail)
    result = upscale("a.png", "b.png")
    assert result.code == 1 and result.out == []
    assert [text.split(":")[1] for text in result.err] == [" a.png", " b.png"]
    assert all(line in text for text in result.err)
    assert "Traceback (most recent call last):" in upscale("a.png", "--debug").err


@pytest.mark.parametrize("blocked", ["a_x4.json", "a_x4.png"])
def test_what_cannot_be_written_leaves_nothing_half_written(upscale: Run, blocked: str) -> None:
    save_photo("a.png")
    Path("outputs", blocked).mkdir(parents=True)
    result = upscale("a.png")
    assert result.code == 1
    one_line(result, "a.png: ", f"{blocked}: is a folder; move it, or choose another place with -o.")
    assert not Path("outputs", "a_x4.png").is_file()
    assert not list(Path("outputs").rglob("*.part"))


def test_output_that_is_a_file_is_refused(upscale: Run) -> None:
    save_photo("a.png")
    Path("notes.txt").touch()
    result = upscale("a.png", "-o", "notes.txt")
    assert result.code == 2
    one_line(result, "-o names a folder, or FILE.png for one picture; notes.txt is a file of another kind.")
    result = upscale("a.png", "-o", "a.png/deeper")
    assert result.code == 2
    one_line(result, f"{Path('a.png/deeper')}: cannot be made a folder")


def test_interrupt_ends_without_traceback_or_half_a_picture(upscale: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_photo("a.png")
    monkeypatch.setattr("xpsr.batch.restoring.write_text", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    # started in the background, a shell's child ignores Ctrl-C, and Python leaves it at that
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = upscale("a.png")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert result.code == 130
    one_line(result, "interrupted")
    assert files() == []


# Results


def test_sidecar_tells_everything(upscale: Run, tiny_model: Path) -> None:
    save_photo("photos/a.png", size=(7, 5))
    result = upscale("photos", "--scale", "2.5", "-o", "out", "--seed", "3", "--content", "a cat", "--quality", "noisy")
    assert result.code == 0 and result.err == ["    content: a cat", "    quality: noisy"]
    assert files("out") == ["a_x2.5.json", "a_x2.5.png"]
    assert open_image("out/a_x2.5.png").size == (18, 12)
    sidecar = read_json("out/a_x2.5.json")
    assert (Path("out") / sidecar["input"]).resolve() == Path("photos/a.png").resolve()
    assert sidecar.pop("seconds") > 0
    versions = sidecar.pop("versions")
    assert (versions["xpsr"], versions["torch"]) == (xpsr.__version__, torch.__version__)
    assert sorted(versions) == ["diffusers", "python", "torch", "transformers", "xpsr"]
    device = resolve_device("auto")
    assert sidecar == {
        "input": "../photos/a.png",
        "input_sha256": sha256(Path("photos", "a.png")),
        "input_size": [7, 5],
        "output": "a_x2.5.png",
        "output_sha256": sha256(Path("out", "a_x2.5.png")),
        "output_size": [18, 12],
        "prior": {"content": "a cat", "quality": "noisy"},
        "seed": 3,
        "scale": 2.5,
        "settings": as_dict(XPSRPipeline.from_pretrained(tiny_model).settings()),
        "device": str(device),
        "dtype": resolve_dtype("auto", device),
        "engine": "torch",
        "weights_dtype": "fp16" if device.type == "cuda" else "fp32",
        "fidelity": sidecar["fidelity"],
        "model": {"name": str(tiny_model), "sha256": checksums(tiny_model)},
        "asked": {
            "preset": None,
            "settings": {},
            "content": "a cat",
            "quality": "noisy",
            "describer": "none",
            "protect": None,
            "lr_consistency": None,
            "file_quality": None,
            "keep_cmyk": False,
            "strip_gps": False,
            "strip_metadata": False,
            "provenance": True,
            "c2pa": None,
            "model_index": sha256(tiny_model / "model_index.json"),
        },
    }


def test_result_is_that_of_the_pipeline_with_the_settings_of_the_sidecar(upscale: Run, tiny_model: Path) -> None:
    save_photo("a.png", "RGBA")
    upscale(
        "a.png", "--steps", "2", "--guidance-scale", "2", "--content", "a cat", "--dtype", "fp32", "--device", "cpu"
    )
    sidecar = read_json("outputs/a_x4.json")
    assert sidecar["settings"]["strength"] == 0.4 and sidecar["settings"]["color_match"] == "none"
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    generator = torch.Generator().manual_seed(sidecar["seed"])
    expected = pipe(
        "a.png", prior=xpsr.Prior(**sidecar["prior"]), generator=generator, settings=sidecar["settings"]
    ).images[0]
    np.testing.assert_array_equal(np.asarray(open_image("outputs/a_x4.png")), np.asarray(expected))


def test_the_documented_snippet_does_a_sidecar_again(upscale: Run, tiny_model: Path) -> None:
    save_photo("photo.jpg", size=(16, 16))
    # several steps from noise, so that the seed counts
    arguments = ("--steps", "2", "--strength", "1", "--guidance-scale", "2", "--content", "a cat", "--quality", "dark")
    assert upscale("photo.jpg", *arguments, "--dtype", "fp32", "--device", "cpu", "--format", "png").code == 0
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    (snippet,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "sidecar" in block)
    names: dict[str, Any] = {}
    exec(snippet, names)
    np.testing.assert_array_equal(np.asarray(open_image("outputs/photo_x4.png")), np.asarray(names["again"]))


def test_a_seed_gives_the_same_bytes_alone_and_in_company(upscale: Run) -> None:
    save_photo("a.png", seed=1), save_photo("b.png", seed=2)
    noisy = ("--seed", "5", "--steps", "2", "--strength", "1")
    upscale("a.png", "b.png", "-o", "both", *noisy)
    upscale("b.png", "-o", "alone", *noisy)
    assert Path("both/b_x4.png").read_bytes() == Path("alone/b_x4.png").read_bytes()
    assert files("both") == ["a_x4.json", "a_x4.png", "b_x4.json", "b_x4.png"]


def test_without_a_seed_each_picture_draws_and_records_its_own(upscale: Run) -> None:
    save_photo("a.png"), save_photo("b.png")
    result = upscale("a.png", "b.png", "--json", "--steps", "2", "--strength", "1")
    first, second = map(json.loads, result.out)
    assert first["seed"] != second["seed"]
    upscale("b.png", "-o", "again", "--steps", "2", "--strength", "1", "--seed", second["seed"])
    assert Path("again/b_x4.png").read_bytes() == Path("outputs/b_x4.png").read_bytes()


def test_results_are_lines_on_stdout_unless_quiet(upscale: Run) -> None:
    save_photo("a.png")
    result = upscale("a.png")
    (line,) = result.out
    assert line.startswith(f"{Path('outputs', 'a_x4.png')}  28 x 20  ") and line.endswith(" s")
    quiet = upscale("a.png", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, [], [])


def test_config_file_holds_settings_and_options_go_before_it(upscale: Run) -> None:
    save_photo("a.png")
    Path("run.yaml").write_text("scale: 2\nseed: 7\nnum_inference_steps: 3\n")
    assert upscale("a.png", "--config", "run.yaml", "--seed", "8").code == 0
    sidecar = read_json("outputs/a_x2.json")
    assert (sidecar["seed"], sidecar["settings"]["num_inference_steps"]) == (8, 3)
    Path("run.yaml").write_text("sclae: 2\n")
    result = upscale("a.png", "--config", "run.yaml")
    assert result.code == 2
    one_line(result, "run.yaml: sclae is not an option; did you mean 'scale'?")


def test_an_option_is_called_as_it_was_given(upscale: Run) -> None:
    save_photo("a.png")
    Path("run.yaml").write_text("tile_size: 15\n")
    for arguments, said in (
        (["--tile-size", "15"], "--tile-size 15 is not a multiple of 2; use 16."),
        (["--steps", "2", "--shifts", "2"], "--shifts 2 is for the one step"),
        (["--fit", "stretch", "--shifts", "2"], "--shifts 2 is for fit=pad, not stretch; use 1."),
        (["--min-size", "-1"], "--min-working-size -1 is not in [0, 65536]; use 0 to ask for nothing."),
        (["--config", "run.yaml"], "tile_size=15 is not a multiple of 2; use 16."),
        (["--config", "run.yaml", "--tile-size", "13"], "--tile-size 13 is not a multiple of 2; use 14."),
    ):
        result = upscale("a.png", *arguments)
        assert result.code == 2
        assert one_line(result).startswith(f"xpsr: {said}")
    Path("run.yaml").write_text("steps: 3\ntile_size: 16")
    result = upscale("a.png", "--config", "run.yaml", "--tile-size", "16")
    one_line(result, "xpsr: run.yaml: steps is not an option; did you mean 'num_inference_steps'?")


def test_a_former_name_in_a_config_file_is_told_in_a_line(upscale: Run) -> None:
    save_photo("a.png")
    Path("run.yaml").write_text("scale: 2\nmin_size: 16\n")
    result = upscale("a.png", "--config", "run.yaml")
    assert result.code == 0
    assert result.err == ["xpsr: min_size is called min_working_size now; use that name."]
    assert read_json("outputs/a_x2.json")["settings"]["min_working_size"] == 16


@pytest.mark.parametrize(
    ("mode", "written"), [("L", "L"), ("LA", "LA"), ("P", "RGB"), ("RGBA", "RGBA"), ("1", "L"), ("CMYK", "RGB")]
)
def test_any_kind_of_picture_is_restored(upscale: Run, mode: str, written: str) -> None:
    save_photo("a.tif", mode)
    assert upscale("a.tif", "--scale", "2").code == 0
    image = open_image("outputs/a_x2.tif")
    assert image.size == (14, 10)
    assert image.mode == written


def test_orientation_of_the_camera_is_applied(upscale: Run) -> None:
    image = open_image(save_photo("raw.png", size=(7, 5)))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image.save("a.jpg", exif=exif)
    assert upscale("a.jpg").code == 0
    assert read_json("outputs/a_x4.json")["input_size"] == [5, 7]
    assert open_image("outputs/a_x4.jpg").size == (20, 28)


def test_a_result_is_what_its_picture_is_or_what_is_asked_for(upscale: Run) -> None:
    save_photo("a.webp"), save_photo("b.JPG", seed=1), save_photo("c.bmp", seed=2)
    assert upscale("a.webp", "b.JPG", "c.bmp").code == 0
    assert files("outputs") == ["a_x4.json", "a_x4.webp", "b_x4.JPG", "b_x4.json", "c_x4.json", "c_x4.png"]
    with Image.open("outputs/b_x4.JPG") as image:
        exif = image.getexif()
        assert (image.format, exif[305]) == ("JPEG", f"xpsr {xpsr.__version__}")
        assert b"compositeWithTrainedAlgorithmicMedia" in image.info["xmp"]
    assert upscale("a.webp", "--format", "tiff", "-o", "tiff", "--no-provenance").code == 0
    with Image.open("tiff/a_x4.tif") as image:
        assert image.format == "TIFF" and 305 not in image.getexif()
    sizes = []
    for quality in ("20", "90"):
        assert upscale("a.webp", "--format", "jpg", "--file-quality", quality, "-o", "lossy", "--seed", "1").code == 0
        sizes.append(Path("lossy/a_x4.jpg").stat().st_size)
    assert sizes[0] < sizes[1]  # and made again, without a question
    one_line(upscale("a.webp", "-o", "x.png", "--format", "jpg"), "--format jpg does nothing beside -o x.png")
    one_line(upscale("a.webp", "--file-quality", "0"), "--file-quality 0 is not in [1, 100]")


def test_what_cannot_be_written_is_refused_before_it_is_made(upscale: Run) -> None:
    save_photo("a.png", "RGBA"), save_photo("wide.webp", size=(4100, 2))
    result = upscale("a.png", "wide.webp", "--format", "webp", "--debug")
    assert result.out == ["outputs/a_x4.webp  28 x 20  " + result.out[0].split("  ")[-1]]
    assert "outputs/wide_x4.webp: WEBP cannot hold this picture (a side has more than 16383 pixels); use .png." in (
        "\n".join(result.err)
    )
    one_line(upscale("a.png", "--format", "jpg", "-o", "o"), "a.png: o/a_x4.jpg: JPEG cannot hold this picture")


def test_two_formats_of_one_result_have_a_record_each(upscale: Run) -> None:
    save_photo("photos/a.jpg")
    assert upscale("photos/a.jpg", "--seed", "1").code == 0
    first = Path("outputs/a_x4.json").read_bytes()
    for name in ("webp", "webp", "png"):
        assert upscale("photos/a.jpg", "--seed", "1", "--format", name).code == 0
    both = ["a_x4.jpg", "a_x4.json", "a_x4.png", "a_x4.png.json", "a_x4.webp", "a_x4.webp.json"]
    assert files("outputs") == both and Path("outputs/a_x4.json").read_bytes() == first
    again = upscale("photos/a.jpg", "--format", "webp", "--seed", "1", "--json")
    assert json.loads(again.out[0])["status"] == "done"
    assert upscale("photos/a.jpg", "--format", "webp", "--seed", "2", "--on-existing", "overwrite").code == 0
    assert files("outputs") == both and Path("outputs/a_x4.json").read_bytes() == first
    assert json.loads(Path("outputs/a_x4.webp.json").read_text())["seed"] == 2
    # none of them is taken for a photograph, and the record of one is found though that of the other has gone
    one_line(upscale("outputs"), "passed over: 3 results of xpsr (a_x4.jpg, a_x4.png, a_x4.webp")
    Path("outputs/a_x4.jpg").unlink(), Path("outputs/a_x4.json").unlink()
    again = upscale("photos/a.jpg", "--format", "webp", "--json")
    assert json.loads(again.out[0])["status"] == "done"
    # a file that xpsr has not made is not replaced
    Path("outputs/a_x4.avif").write_bytes(b"mine")
    one_line(upscale("photos/a.jpg", "--format", "avif"), "outputs/a_x4.avif: is there already, and nothing beside it")


def test_a_result_of_other_proportions_is_told_so(upscale: Run) -> None:
    save_photo("a.png", size=(10, 10))
    told = "xpsr: a.png: it is stretched from 10 x 10 to 30 x 20; longest instead of size keeps its proportions."
    assert told in upscale("a.png", "--size", "30x20").err
    assert json.loads(Path("outputs/a_30x20.json").read_text())["notices"] == [told.removeprefix("xpsr: a.png: ")[:-1]]
    save_photo("b.png", size=(10, 7))
    for size in (("--size", "25x17"), ("--size", "25x18"), ("--longest", "25"), ("--scale", "0.1")):
        assert "stretched" not in "\n".join(upscale("b.png", *size).err)


# Names, and what is there already


def test_pictures_of_one_name_never_replace_one_another(upscale: Run) -> None:
    for seed, folder in enumerate(("trip1", "trip2")):
        save_photo(f"{folder}/IMG_1.png", seed=seed)
    assert upscale("trip1/IMG_1.png").code == 0
    first = Path("outputs/IMG_1_x4.png").read_bytes()
    later = upscale("trip2/IMG_1.png")
    one_line(
        later, "trip2/IMG_1.png: ", "is the result of another picture, ../trip1/IMG_1.png; move it, choose another"
    )
    at_once = upscale("trip1", "trip2", "-o", "both")
    assert later.code == at_once.code == 1 and Path("outputs/IMG_1_x4.png").read_bytes() == first
    (line,) = at_once.err
    assert line.startswith("xpsr: trip2/IMG_1.png: its result would replace both/IMG_1_x4.png, that of trip1/IMG_1.png")
    # what the line says works
    assert upscale(".", "--recursive", "-o", "both").code == 0
    assert [path.relative_to("both").as_posix() for path in sorted(Path("both").rglob("*.png"))] == [
        "IMG_1_x4.png",
        "trip1/IMG_1_x4.png",
        "trip2/IMG_1_x4.png",
    ]


def test_a_name_does_not_depend_on_what_else_is_restored(upscale: Run) -> None:
    save_photo("a.png"), save_photo("b.png"), save_photo("B.jpg", seed=1)
    upscale("a.png", "b.png", "-o", "some")
    upscale("B.jpg", "b.png", "a.png", "-o", "all")
    assert files("some") == ["a_x4.json", "a_x4.png", "b.png_x4.json", "b.png_x4.png"]
    assert files("all") == sorted([*files("some"), "B.jpg_x4.jpg", "B.jpg_x4.json"])


def test_a_file_of_mine_is_not_replaced_unless_i_say_so(upscale: Run) -> None:
    save_photo("a.png")
    mine = save_photo("outputs/a_x4.png", seed=9).read_bytes()
    for arguments in ([], ["--on-existing", "error"], ["--on-existing", "update"]):
        result = upscale("a.png", *arguments)
        assert result.code == 1
        one_line(result, "a.png: outputs/a_x4.png: is there already", "or add --on-existing overwrite.")
    Path("run.yaml").write_text("on_existing: skip")
    result = upscale("a.png", "--config", "run.yaml")
    assert (result.code, result.out) == (0, [])
    assert result.err == ["xpsr: outputs/a_x4.png was there already; --on-existing overwrite makes it again."]
    assert Path("outputs/a_x4.png").read_bytes() == mine and files() == ["a_x4.png"]
    assert upscale("a.png", "--on-existing", "overwrite").code == 0
    assert Path("outputs/a_x4.png").read_bytes() != mine


def test_the_same_command_again_does_what_is_new_and_loads_no_model_where_nothing_is(
    upscale: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_photo("trip/a.png"), save_photo("trip/b.png", seed=1)
    command = ("trip", "-o", "trip")
    assert len(upscale(*command).out) == 2
    save_photo("trip/c.png", seed=2)
    again = upscale(*command)
    assert again.code == 0 and [line.split()[0] for line in again.out] == ["trip/c_x4.png"]
    results = "passed over: 2 results of xpsr (a_x4.png, b_x4.png; name them to restore them again)"
    assert again.err == [
        f"xpsr: trip: {results}.",
        "xpsr: 2 of 3 pictures were done already; --on-existing overwrite makes them again.",
    ]
    monkeypatch.setattr("xpsr.restore.open_pipeline", None)
    assert upscale(*command, "--quiet").code == 0
    done = [json.loads(line) for line in upscale(*command, "--json").out]
    assert [(told["status"], told["input"], told["output"]) for told in done] == [
        ("done", f"trip/{name}.png", f"trip/{name}_x4.png") for name in "abc"
    ]
    assert all(
        told["seed"] == read_json(f"trip/{name}_x4.json")["seed"] for told, name in zip(done, "abc", strict=True)
    )
    assert not list(Path("trip").glob("*_x4_x4*"))


def test_a_result_that_is_named_is_restored(upscale: Run) -> None:
    save_photo("a.png", size=(3, 3))
    assert upscale("a.png", "-o", ".").code == upscale("a_x4.png", "-o", ".").code == 0
    assert open_image("a_x4_x4.png").size == (48, 48)
    result = upscale("a.png", "a_x4.png", "-o", ".")
    (line,) = result.err[:-1]
    assert line == "xpsr: a.png: its result would replace the input a_x4.png; choose another place with -o."
    result = upscale("a.png", "-o", "a.png", "--on-existing", "overwrite")
    one_line(result, "a.png: its result would replace the input a.png")


def test_whatever_a_folder_has_more_is_told_in_a_line(upscale: Run) -> None:
    save_photo("album/a.png"), save_photo("album/b.png").rename("album/b.jfif"), save_photo("album/c.ppm")
    save_photo("album/d.ico"), save_photo("album/deep/er/e.png"), save_photo("album/outputs/f.png")
    Path("album/gone.jpg").symlink_to("nowhere.jpg")
    Path("album/loop.jpg").symlink_to("loop.jpg")
    result = upscale("album", "-o", "album/outputs")
    assert result.code == 1  # a link leads nowhere, and one to itself
    assert [line.split()[0] for line in result.out] == [
        f"album/outputs/{name}" for name in ("a_x4.png", "b_x4.png", "c_x4.png")
    ]
    assert result.err == [
        "xpsr: album: passed over: 1 file (d.ico; convert to PNG or TIFF to have them), 1 folder (deep; add --recursive"
        " to search them).",
        "xpsr: album/gone.jpg: cannot be read (No such file or directory); check the path.",
        "xpsr: album/loop.jpg: cannot be read (Too many levels of symbolic links); check the path and its permissions.",
    ]
    Path("loop").symlink_to("loop")
    one_line(upscale("album/a.png", "-o", "loop"), "xpsr: loop: cannot be made a folder")
    Path("album/gone.jpg").unlink(), Path("album/loop.jpg").unlink()
    assert upscale("album", "-o", "album/outputs", "-r").code == 0
    assert files("album/outputs/deep/er") == ["e_x4.json", "e_x4.png"] and not Path("album/outputs/f_x4.png").exists()
    one_line(upscale("album/deep"), "album/deep: holds no pictures; passed over: 1 folder (er; add --recursive")


def test_a_full_disk_ends_the_run(upscale: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise InputError(f"{path}: cannot be written", code="disk_full", remedy="free space")

    for name in "abcd":
        save_photo(f"{name}.png")
    upscale("a.png")
    monkeypatch.setattr("xpsr.batch.restoring.write_text", refuse)
    result = upscale("a.png", "b.png", "c.png", "d.png")
    assert result.code == 1 and result.out == []
    assert result.err == [
        "xpsr: b.png: outputs/b_x4.json: cannot be written; free space.",
        "xpsr: 2 more pictures were not tried.",
        "xpsr: 1 of 4 pictures were done already; --on-existing overwrite makes them again.",
    ]
    told = [json.loads(line) for line in upscale("a.png", "b.png", "c.png", "d.png", "--json").out]
    assert [(one["input"], one["status"]) for one in told] == [
        ("a.png", "done"),
        ("b.png", "failed"),
        ("c.png", "not_tried"),
        ("d.png", "not_tried"),
    ]


def test_what_comes_to_a_place_while_others_are_restored_is_not_replaced(
    upscale: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_photo("a.png"), save_photo("b.png")

    def come(path: Path, **options: Any) -> Any:
        if path.name == "b.png":
            Path("outputs/b_x4.png").write_text("mine")
        return read_image(path)

    monkeypatch.setattr("xpsr.batch.restoring.read_image", come)
    result = upscale("a.png", "b.png")
    assert result.code == 1 and len(result.out) == 1
    assert result.err == [
        "xpsr: b.png: outputs/b_x4.png: came there, or was changed, while the picture was restored; move it, choose"
        " another place with -o, or add --on-existing overwrite."
    ]
    assert Path("outputs/b_x4.png").read_text() == "mine" and files() == ["a_x4.json", "a_x4.png", "b_x4.png"]
    Path("outputs/b_x4.png").unlink()
    assert upscale("a.png", "b.png", "--on-existing", "overwrite").code == 0


def test_a_name_too_long_is_told_before_the_work(upscale: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_photo("a" * 249 + ".png")
    monkeypatch.setattr("xpsr.restore.open_pipeline", None)
    one_line(upscale("a" * 249 + ".png"), "cannot be written (File name too long); choose a shorter name.")


# One file, standard input and standard output


def test_a_result_may_be_named(upscale: Run) -> None:
    save_photo("a.png", "RGBA"), save_photo("b.png"), Path("folder.png").mkdir()
    assert upscale("a.png", "-o", "new/result.png").code == 0
    assert files("new") == ["result.json", "result.png"] and read_json("new/result.json")["input"] == "../a.png"
    assert upscale("a.png", "-o", "folder.png").code == 0 and files("folder.png") == ["a_x4.json", "a_x4.png"]
    assert upscale("b.png", "-o", "result.webp").code == 0 and open_image("result.webp").format == "WEBP"
    for arguments, said in (
        (["a.png", "b.png", "-o", "c.png"], "-o c.png is for one picture; name a folder with -o for several."),
        (["folder.png", "-o", "-"], "-o - is for one picture"),
        (["a.png", "-o", "c.gif"], "-o c.gif: .gif cannot be written; use .png, for example."),
        (["a.png", "-o", "-", "--json"], "--json and -o - both write on standard output; leave one of them out."),
    ):
        result = upscale(*arguments)
        assert result.code == 2
        one_line(result, said)
    result = upscale("b.png", "-o", "new/result.png")
    assert result.code == 1
    one_line(result, "b.png: new/result.png: is the result of another picture, ../a.png")


def test_what_stands_behind_two_dashes_is_no_option(run: Run, tiny_model: Path) -> None:
    save_photo("-dash.png"), save_photo("--scale=2.png", seed=1)
    result = run("upscale", "--model", tiny_model, "--", "-dash.png", "--scale=2.png")
    assert result.code == 0 and files() == [
        f"{name}_x4.{kind}" for name in ("--scale=2", "-dash") for kind in ("json", "png")
    ]
    result = run("describe", "--quiet", "--", "-dash.png")
    assert (result.code, result.out) == (0, ["priors.jsonl"])
    for arguments in (["degrade", "--", "-none", "-out"], ["data", "--", "check", "-none"], ["train", "--", "-none"]):
        assert "-none" in one_line(run(*arguments)) and "option -" not in one_line(run(*arguments))


def test_a_picture_comes_and_goes_through_pipes(
    tiny_model: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = save_photo("a.png").read_bytes()
    command = ["upscale", "-", "--model", str(tiny_model), "--seed", "1"]

    def run(*arguments: str, stdin: bytes = content) -> tuple[int, bytes, bytes]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        return main([*command, *arguments]), *capfdbinary.readouterr()

    assert main(["upscale", "a.png", *command[2:]]) == 0
    code, out, err = run("-o", "-")
    assert (code, err) == (0, b"") and out == Path("outputs/a_x4.png").read_bytes()
    assert files(".") == ["a.png", "outputs"]
    code, _, _ = run()
    sidecar = read_json("outputs/stdin_x4.json")
    assert code == 0 and sidecar["input"] == "-" and sidecar["input_sha256"] == sha256(Path("a.png"))
    assert run()[0] == 0 and run("--scale", "4")[1] == b""  # done
    other = run(stdin=save_photo("b.png", seed=1).read_bytes())
    assert other[0] == 1 and (
        b"-: outputs/stdin_x4.png: is the result of another standard input; name the result with -o FILE.png, or"
        in other[2]
    )
    picture = Image.new("RGB", (8, 6))
    picture.save("c.jpg")
    assert run("-o", "-", stdin=Path("c.jpg").read_bytes())[1][:3] == b"\xff\xd8\xff"
    assert b"-: is not an image that can be read" in run("--dry-run", "-o", "none", stdin=b"none")[2]
    broken = run("-o", "-", stdin=content[:60])
    assert (broken[:2]) == (1, b"") and broken[2].startswith(b"xpsr: -: is truncated")
    Path("priors.jsonl").write_text('{"image": "a.png", "content": "x", "quality": "y"}')
    told = run("--priors", "priors.jsonl")
    assert told[0] == 1 and b"-: priors are told by the file of a picture; give --content and" in told[2]
    assert (
        main(["describe", "-"]) == 1 and b"-: can be read but once; save it in a file" in capfdbinary.readouterr().err
    )


@pytest.mark.parametrize("size", [(), ("--longest", "6000")])
def test_a_piped_picture_that_pillow_cannot_open_is_planned_by_its_size(
    upscale: Run, monkeypatch: pytest.MonkeyPatch, size: tuple[str, ...]
) -> None:
    content = by_oiio(Path("large.jxl"), np.zeros((2100, 2200, 3), np.uint8))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    result = upscale("-", *size, "--dry-run", "--json")
    assert result.code == 0, result.err
    planned, longest = json.loads(result.out[0]), 6000 if size else 4400
    assert planned["input_size"] == [2200, 2100] and max(planned["output_size"]) == longest
    assert planned["output"] == f"outputs/stdin_{'longest6000' if size else 'x2'}.jxl"


def test_a_pipe_that_is_named_is_read_once(upscale: Run) -> None:
    content = save_photo("a.png").read_bytes()
    os.mkfifo("pipe.png")
    writer = threading.Thread(target=lambda: Path("pipe.png").write_bytes(content))
    writer.start()
    result = upscale("pipe.png")
    writer.join()
    assert result.code == 0, result.err
    assert read_json("outputs/pipe_x4.json")["input_sha256"] == sha256(Path("a.png"))


# Devices and number types


def test_auto_takes_a_fast_number_type() -> None:
    cpu = torch.device("cpu")
    assert resolve_device("cpu") == cpu
    assert resolve_dtype("auto", cpu) == ("bf16" if "bf16" in fast_dtypes(cpu) else "fp32")


def test_bf16_on_the_cpu_is_close_to_fp32(upscale: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr.devices._bf16_fault", lambda _: None)  # it is right everywhere, but fast on few
    save_photo("a.png", size=(16, 16))
    pictures = []
    for dtype in ("fp32", "bf16"):
        assert upscale("a.png", "-o", dtype, "--dtype", dtype, "--device", "cpu").code == 0
        pictures.append(np.asarray(open_image(f"{dtype}/a_x4.png")).astype(int))
    error = np.abs(pictures[0] - pictures[1])
    assert 0 < error.max() < 32 and error.mean() < 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--offload", "group"],
            "--offload group is for graphics cards: a CPU has no other memory to wait in; use",
        ),
        (["--cache-interval", "2"], "--cache-interval 2 is for several steps, and this is the one step; use 1."),
        (["--scheduler", "dpm"], "--scheduler dpm is for several steps, and this is the one step; use model."),
        (["--guidance-interval", "0.8", "0.2"], "is not from low to high within [0, 1]; use [0, 1]."),
    ],
)
def test_what_a_machine_or_a_model_cannot_do_is_one_line(upscale: Run, options: list[str], said: str) -> None:
    save_photo("a.png", size=(8, 8))
    result = upscale("a.png", "--device", "cpu", *options)
    assert result.code != 0
    assert said in one_line(result)


def test_weights_may_lie_in_fewer_bits_and_guidance_end_early(upscale: Run) -> None:
    save_photo("a.png", size=(8, 8))
    options = ("--steps", "2", "--guidance-scale", "2", "--guidance-interval", "0", "0.5", "--cache-interval", "2")
    options += ("--scheduler", "unipc")
    machine = ("--device", "cpu", "--dtype", "fp32", "--weights-dtype", "bf16")
    assert upscale("a.png", *options, *machine).code == 0
    record = read_json("outputs/a_x4.json")
    assert record["weights_dtype"] == "bf16"
    assert (record["settings"]["guidance_interval"], record["settings"]["cache_interval"]) == ([0, 0.5], 2)
    assert record["settings"]["scheduler"] == "unipc"
    again = upscale("a.png", *options, *machine)
    assert again.code == 0 and "was done already" in again.err[0]


# Training


TRAIN = """
model:
  block_out_channels: [16, 32]
  num_attention_heads: [1, 2]
  norm_num_groups: 8
  conditioning_channels: [4, 8, 16]
  text_width: 32
  decoder_channels: 8
  decoder_layers: 1
  settings: {tile_size: 16, tile_overlap: 4}
data: {hr_dir: photos, crop_size: 32}
train: {output_dir: runs/tiny, max_steps: 3, batch_size: 2, precision: fp32, device: cpu}
"""


def test_train_stops_goes_on_and_gives_a_model_for_upscale(run: Run) -> None:
    for index in range(4):
        save_photo(f"photos/{index}.png", size=(40, 36), seed=index)
    Path("tiny.yaml").write_text(TRAIN)

    stopped = run("train", "tiny.yaml", "--train.max_minutes=1e-6")
    assert stopped.code == 3 and stopped.out == []
    assert stopped.err[-1].startswith("xpsr: stopped early; the same command goes on from ")

    complete = run("train", "tiny.yaml")
    assert (complete.code, complete.out) == (0, [str(Path("runs", "tiny", "model"))])
    steps = [json.loads(line)["step"] for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 3
    assert not [name for name in files("runs/tiny") if name.startswith(".")]
    weights = load_file("runs/tiny/model/unet/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}

    result = run("upscale", "photos/0.png", "--model", "runs/tiny/model", "--scale", "2")
    assert result.code == 0, result.err
    assert read_json("outputs/0_x2.json")["settings"]["strength"] == 0.0

    more = run(
        "train", "tiny.yaml", "--model.path=runs/tiny/model", "--train.output_dir=runs/more", "--train.max_steps=1"
    )
    assert more.code == 0, more.err


def test_train_failures_are_one_line(run: Run) -> None:
    Path("tiny.yaml").write_text(TRAIN)
    result = run("train", "tiny.yaml")
    assert result.code == 2
    one_line(result, "data.hr_dir=photos is no such folder")
    save_photo("photos/0.png", size=(80, 72))
    Path("priors.jsonl").write_text('{"image": "photos/0.png", "content": "a lawn"}\n')
    result = run("train", "tiny.yaml", "--data.priors=priors.jsonl", "--model.vocabulary=gone.txt")
    assert result.code == 2
    one_line(result, "model.vocabulary=gone.txt cannot be read (No such file or directory)")
    result = run("train", "tiny.yaml", "--train.max_stps=5")
    assert result.code == 2
    one_line(result, "train.max_stps", "did you mean 'train.max_steps'?")


# Doctor


def test_doctor_goes_on_past_what_it_cannot_read(run: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("xpsr.model_files.bundled_models", lambda: {"mini": tiny_model})
    monkeypatch.setattr("xpsr.model_files.digest", refuse)
    result = run("doctor", "--json")
    facts = json.loads("\n".join(result.out))
    assert result.code == 1 and facts["models"] == {"mini": {"state": "damaged", "sha256": {}}}
    assert len(facts["problems"]) == 1 and "cannot be used (Permission denied)" in facts["problems"][0]


def test_doctor_tells_what_nobody_has_foreseen_as_far_as_it_can(
    run: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> str:
        raise KeyError("unet")

    monkeypatch.setattr("xpsr.model_files.bundled_models", lambda: {"mini": tiny_model})
    monkeypatch.setattr("xpsr.model_files.digest", fail)
    (problem,) = json.loads("\n".join(run("doctor", "--json").out))["problems"]
    assert problem == f"{tiny_model}: cannot be loaded (KeyError: 'unet'); install xpsr again."


def test_doctor_says_what_is_there(run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "mini")
    monkeypatch.setattr("xpsr.model_files.bundled_models", lambda: {"mini": model})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    self_check.cache_clear()  # an earlier test's check would not be kept here
    found = checksums(model)
    (model / "checksums.json").write_text(json.dumps(found))
    result = run("doctor")
    assert (result.code, result.err) == (0, [])
    assert result.out[0].startswith("ok: pictures are restored on ") and result.out[1] == "versions"
    assert any(line.split() == ["mini", "ok"] for line in result.out)
    assert any("bf16 is right (error 0." in line and " fp32" in line for line in result.out)
    assert not any("missing" in line for line in result.out)
    assert all(any(f"{sha256}  {file}" in line for line in result.out) for file, sha256 in found.items())
    assert any(line.split()[:2] == ["torch", importlib.metadata.version("torch")] for line in result.out)

    (model / "checksums.json").write_text("{}")
    assert run("doctor").out[0] == "not ok: 1 problem, told at the end"
    result = run("doctor", "--json")
    facts = json.loads("\n".join(result.out))
    assert result.code == 1
    assert facts["models"] == {"mini": {"state": "differs", "sha256": found}}
    assert len(facts["problems"]) == 1 and str(model) in facts["problems"][0]
    assert facts["devices"]["cpu"]["auto_dtype"] in ("fp32", "bf16")
    assert facts["devices"]["cpu"]["self_checks"]["bf16"]["is_right"]
    assert (tmp_path / "cache" / "xpsr" / "number_types.json").is_file()
    assert facts["threads"] == torch.get_num_threads()
    assert facts["extras"]["formats"]["install"] == "pip install pillow-heif"
    assert "dev" not in facts["extras"]


@pytest.mark.parametrize(
    ("error", "ratio", "fast", "line"),
    [
        (0.005, 0.0074, ["fp32"], "bf16 is right (error 0.5%) and 135 times slower than fp32, so it is not used"),
        (0.005, 0.5, ["fp32"], "bf16 is right (error 0.5%) and 2 times slower than fp32, so it is not used"),
        (0.005, 1.7, ["fp32", "bf16"], "bf16 is right (error 0.5%) and 1.7 times as fast as fp32"),
        (0.3, 1.7, ["fp32"], "bf16 is wrong (error 30.0%) and 1.7 times as fast as fp32, so it is not used"),
    ],
)
def test_doctor_says_what_follows_from_a_check(error: float, ratio: float, fast: list[str], line: str) -> None:
    check = SelfCheck(error=error, ratio=ratio)
    facts = {"error": error, "ratio": ratio, "is_right": check.is_right, "is_fast": check.is_fast}
    assert _checked("bf16", facts, fast) == line


@pytest.mark.slow
def test_doctor_names_a_torchvision_that_breaks_the_libraries(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "torchvision-0.99.0.dist-info").mkdir()
    (tmp_path / "torchvision-0.99.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.99.0\n")
    command = [sys.executable, "-m", "xpsr", "doctor"]
    paths = (tmp_path, Path(xpsr.__file__).parents[1])  # this xpsr, wherever another is installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("not ok: 1 problem, told at the end\nversions\n")
    assert "the libraries cannot be imported" in done.stderr
    assert "run: pip uninstall torchvision" in done.stderr
