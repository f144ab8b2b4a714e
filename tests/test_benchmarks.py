"""What the benchmarks are made of; how long things take is theirs to say."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import parts, reference, steps
from benchmarks.combinations import PARTS, PICTURE, Combination, picture_of
from benchmarks.models import Subject, open_subject, random_pipeline
from benchmarks.operators import KINDS, count_flops, kind_of, operator_shares
from benchmarks.parts import measure_combination
from benchmarks.peak import matrix_peak
from benchmarks.peer import measure_peer
from benchmarks.peers import xpsr_reference
from benchmarks.processes import BenchmarkError, ask_worker, run_command
from benchmarks.rehearse_full import restore, write_system
from benchmarks.reports import show_operators, show_parts, show_peers, show_reference
from benchmarks.rows import Rows
from benchmarks.tables import markdown_table, table
from benchmarks.timing import measure
from diffusers import DDIMScheduler

from xpsr.convert import convert_reference
from xpsr.errors import InputError
from xpsr.image import write_image
from xpsr.jsonl import read_lines
from xpsr.training.planning import STABLE_DIFFUSION_1_5

CPU = torch.device("cpu")
TINY = {
    "attention_head_dim": 2,
    "block_out_channels": [16, 16],
    "cross_attention_dim": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
SIZES = {
    "unet": {**STABLE_DIFFUSION_1_5["unet"], **TINY, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]},
    "controlnet": {
        **STABLE_DIFFUSION_1_5["controlnet"],
        **TINY,
        "conditioning_embedding_out_channels": [4, 4, 8, 8],
    },
    "vae": {
        **STABLE_DIFFUSION_1_5["vae"],
        "block_out_channels": [4, 4, 4, 4],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": {
        **STABLE_DIFFUSION_1_5["text_encoder"],
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 600,
    },
    "scheduler": STABLE_DIFFUSION_1_5["scheduler"],
}


@pytest.mark.slow
def test_rehearsal_writes_a_system_in_shards_that_converts_and_restores(tmp_path: Path) -> None:
    reference, model = tmp_path / "reference", tmp_path / "model"
    write_system(reference, SIZES, max_shard_size="100KB")
    assert len(list((reference / "unet").glob("*.safetensors"))) > 1
    convert_reference(reference, model, base=reference)
    seconds = restore(model, torch.float32)
    assert list(seconds) == ["load_seconds", "step_1_seconds", "step_2_seconds"]


def test_table_has_the_columns_of_all_rows_in_their_order() -> None:
    table = markdown_table({"one": {"wall": "1.0"}, "other": {"wall": "2.0", "CPU": "3.0"}}, "seconds")
    assert table.splitlines() == [
        "| seconds | wall | CPU |",
        "| --- | --- | --- |",
        "| one | 1.0 |  |",
        "| other | 2.0 | 3.0 |",
    ]


def combination(model: Path | str, **changes: Any) -> Combination:
    values: dict[str, Any] = {
        "model": str(model),
        "width": 16,
        "height": 12,
        "scale": 4.0,
        "device": "cpu",
        "dtype": "fp32",
        "threads": None,
        "engine": None,
        "compiled": False,
        "steps": None,
        "parts": PARTS,
        "picture": str(PICTURE),
        "runs": 1,
        "warm_up": 0,
        "profile": False,
    }
    return Combination(**{**values, **changes})


@pytest.fixture(scope="module")
def measured(tiny_model: Path) -> dict[str, Any]:
    """All parts of the tiny model, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.peak.matrix_peak.__defaults__", ((64,),))
        return measure_combination(combination(tiny_model, profile=True))


def test_every_part_has_its_costs_and_its_share_of_the_peak(measured: dict[str, Any]) -> None:
    assert list(measured["parts"]) == list(PARTS)
    assert measured["peak_gflops"] > 0 and measured["dtype"] == "fp32" and measured["threads"] >= 1
    for part in measured["parts"].values():
        assert part["seconds_min"] <= part["seconds"] <= part["seconds_max"]
        assert part["cpu_seconds"] >= 0 and part["peak_mb"] > 0 and part["gflop"] > 0 and part["peak_share"] > 0
        assert sum(part["operators"].values()) == pytest.approx(1, abs=1e-3)
        assert set(part["operators"]) <= set(KINDS)


def test_the_whole_counts_what_its_parts_do(measured: dict[str, Any]) -> None:
    flops = {name: part["gflop"] for name, part in measured["parts"].items()}
    together = sum(flops[name] for name in PARTS if name != "whole")
    assert flops["whole"] == pytest.approx(together, rel=0.02)


def test_steps_after_the_first_leave_the_image_features_out(
    tiny_model: Path, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peak.matrix_peak.__defaults__", ((64,),))
    several = measure_combination(combination(tiny_model, steps=3, parts=("denoise",)))
    assert several["parts"]["denoise"]["gflop"] < measured["parts"]["denoise"]["gflop"]


def test_a_system_of_random_weights_is_restored_with_in_memory() -> None:
    pipe = random_pipeline(SIZES)
    assert pipe.denoiser.unet.config.block_out_channels == [16, 16]
    assert all(torch.isfinite(parameter).all() for parameter in pipe.unet.parameters())


def test_unknown_models_types_and_engines_say_what_to_use_instead(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(InputError, match="mini"):
        open_subject(str(tmp_path / "none"), device="cpu", dtype="fp32")
    with pytest.raises(InputError, match="dtype=fp8 is not one of auto, fp32, bf16, fp16"):
        open_subject(str(tiny_model), device="cpu", dtype="fp8")
    with pytest.raises(InputError, match="engine"):
        open_subject(str(tiny_model), device="cpu", dtype="fp32", engine="steam")
    with pytest.raises(InputError, match="model=full has no folder"):
        open_subject("full", device="cpu", dtype="fp32", engine="openvino")


def test_flops_are_two_a_multiplication_with_its_addition() -> None:
    a, image, weight = torch.rand(8, 8), torch.rand(1, 2, 8, 8), torch.rand(3, 2, 3, 3)
    query = torch.rand(1, 2, 16, 4)
    with torch.no_grad():
        assert count_flops(lambda: a @ a) == 2 * 8**3
        assert count_flops(lambda: torch.conv2d(image, weight, padding=1)) == 2 * 8 * 8 * 3 * 2 * 9
        attended = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    assert attended == 2 * 2 * 2 * 16 * 16 * 4


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::_slow_conv2d_forward", "convolution"),
        ("aten::addmm", "matmul"),
        ("aten::mkldnn_linear", "matmul"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_softmax", "attention"),
        ("aten::native_group_norm", "norm"),
        ("aten::silu_", "elementwise"),
        ("aten::add", "elementwise"),
        ("aten::copy_", "copy/layout"),
        ("aten::cat", "copy/layout"),
        ("aten::_to_copy", "copy/layout"),
        ("aten::upsample_nearest2d", "other"),
        ("aten::avg_pool2d", "other"),
        ("sm80_xmma_fprop_implicit_gemm_f16", "convolution"),
        ("ampere_sgemm_128x64_nn", "matmul"),
        ("void at::native::vectorized_elementwise_kernel<4>", "elementwise"),
    ],
)
def test_operators_are_told_by_their_kind(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


def test_operator_shares_add_up() -> None:
    a = torch.rand(64, 64)
    shares = operator_shares(lambda: torch.exp(a @ a), CPU, runs=2)
    assert sum(shares.values()) == pytest.approx(1) and shares["matmul"] > 0 and shares["elementwise"] > 0


def test_peak_is_of_the_fastest_side() -> None:
    peak = matrix_peak(CPU, torch.float32, sides=(8, 64))
    assert peak.flops > 0 and peak.side in (8, 64)


def test_only_runs_that_count_are_timed() -> None:
    calls: list[int] = []
    timing = measure(lambda: calls.append(1), runs=3, warm_up=2, device=CPU)
    assert len(calls) == 5 and timing.runs == 3 and timing.device_peak_mb is None
    assert timing.seconds_min <= timing.seconds <= timing.seconds_max


def test_peak_memory_is_that_of_the_timed_calls_alone() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux lets a process reset the peak of its memory")
    large = measure(lambda: torch.ones(2**26), runs=1, warm_up=0, device=CPU)
    small = measure(lambda: torch.ones(1), runs=1, warm_up=0, device=CPU)
    assert large.peak_mb - small.peak_mb > 200


# Processes


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_command_is_timed_with_what_it_starts(tmp_path: Path) -> None:
    busy = "sh -c 'i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done'; echo done"
    run = run_command([script(tmp_path / "busy", busy)])
    assert run.output == "done\n" and run.cpu_seconds > 0 and run.seconds > 0
    assert run.peak_mb < 200  # not what this process held when it started it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo first >&2; echo 'no such weights' >&2; exit 3", "ended with 3: no such weights"),
        ("exit 1", "ended with 1: it said nothing"),
        ("kill -9 $$", "was killed, as systems do when memory runs out; try a smaller size"),
    ],
)
def test_a_command_that_fails_says_why_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BenchmarkError) as caught:
        run_command([script(tmp_path / "failing", text)])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_command_that_is_not_there_says_so() -> None:
    with pytest.raises(BenchmarkError, match="upscaler-of-nobody cannot be run"):
        run_command(["upscaler-of-nobody"])


def test_a_worker_is_asked_and_told_its_threads(tmp_path: Path) -> None:
    worker = script(
        tmp_path / "worker", """echo noise; printf '{"threads": "%s", "asked": ' $OMP_NUM_THREADS; cat; echo '}'"""
    )
    answer = ask_worker("ignored", {"a": 1}, python=worker, threads=3)
    assert answer == {"threads": "3", "asked": {"a": 1}}


def test_what_a_worker_could_not_do_is_raised(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="out of memory"):
        ask_worker("ignored", {}, python=script(tmp_path / "worker", """echo '{"error": "out of memory"}'"""))
    with pytest.raises(BenchmarkError, match="answered nothing"):
        ask_worker("ignored", {}, python=script(tmp_path / "silent", "true"))


# Peers


def peer(template: str, **options: Any) -> dict[str, Any]:
    return measure_peer(template, PICTURE, 16, 12, threads=2, runs=2, warm_up=1, **options)


def test_a_peer_is_timed_as_a_process(tmp_path: Path) -> None:
    copy = script(tmp_path / "copy", f'cp "$1" "$2"; echo "$3" >> {tmp_path}/calls')
    row = peer(f"{copy} {{input}} {{output}} -j{{threads}}")
    assert row["seconds"] == row["process_seconds"] > 0 and row["runs"] == 2
    assert (tmp_path / "calls").read_text() == "-j2\n" * 3


def test_a_peer_that_times_itself_is_believed(tmp_path: Path) -> None:
    own = """echo loading; echo '{"seconds": 100.0, "cpu_seconds": 200.0}' """
    row = peer(script(tmp_path / "own", f'cp "$1" "$2"; {own}') + " {input} {output}")
    assert row["seconds"] == 100 and row["cpu_seconds"] == 200 and row["process_seconds"] < 100 and row["runs"] == 1


def test_a_peer_that_cannot_be_compared_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names no \{output\}; write, for example"):
        peer("cp {input} result.png")
    with pytest.raises(InputError, match="No closing quotation"):
        peer("cp '{input} {output}")
    with pytest.raises(BenchmarkError, match=r"wrote no output.png"):
        peer("test {input} != {output}")


# The authors' code


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Has the names and signatures of the authors' modules, and our networks in them."""
    folder = tmp_path / "checkout" / "models" / "xpsr"
    folder.mkdir(parents=True)
    (folder / "controlnet.py").write_text("""
from basicsr.archs.rrdbnet_arch import RRDB
from xpsr.models import XPSRControlNet
class ControlNetModel(XPSRControlNet):
    def forward(self, sample, timestep, encoder_hidden_states, controlnet_cond, lowlevel_encoder_hidden_states,
                conditioning_scale, return_dict):
        seen = super().forward(sample, timestep, encoder_hidden_states, controlnet_cond, conditioning_scale,
                               quality_hidden_states=lowlevel_encoder_hidden_states)
        return None, None, seen.down_block_res_samples, seen.mid_block_res_sample, None
""")
    (folder / "unet_2d_condition.py").write_text("""
from xpsr.models import XPSRUNet
class UNet2DConditionModel(XPSRUNet):
    def forward(self, sample, timestep, encoder_hidden_states, lowlevel_encoder_hidden_states,
                down_block_additional_residuals, mid_block_additional_residual, return_dict):
        return (super().forward(sample, timestep, encoder_hidden_states, down_block_additional_residuals,
                                mid_block_additional_residual).sample,)
""")
    return tmp_path / "checkout"


def test_both_sides_take_a_step_of_the_same_networks(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("basicsr", "basicsr.archs", "basicsr.archs.rrdbnet_arch", "models", "models.xpsr"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    sides = {"benchmarks.peers.xpsr_reference": xpsr_reference.answer, "benchmarks.reference": reference.answer}

    def ask(module: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        return sides[module](json.loads(json.dumps(request)))

    monkeypatch.setattr(reference, "ask_worker", ask)  # in this process, which has imported everything
    measured = reference.measure_reference(checkout, sizes=SIZES, latent_side=8, runs=1, warm_up=0)
    ours, theirs = measured["ours"], measured["reference"]
    assert ours["parameters"] == theirs["parameters"] and ours["seconds"] > 0 and theirs["seconds"] > 0
    assert set(theirs["their_versions"]) == {"torch", "diffusers"}


def test_a_folder_that_is_no_checkout_says_which_to_clone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"clone https://github\.com/qyp2000/XPSR"):
        reference.measure_reference(tmp_path, runs=1, warm_up=0)


def test_a_reference_that_cannot_start_says_what_it_needs(checkout: Path, tmp_path: Path) -> None:
    python = script(tmp_path / "python", "echo 'ImportError: no diffusers' >&2; exit 1")
    with pytest.raises(BenchmarkError, match=r"ended with 1: ImportError: no diffusers; .*--reference-python"):
        reference.measure_reference(checkout, python=python, sizes=SIZES, runs=1, warm_up=0)


# Steps


@pytest.fixture(scope="module")
def subject(tiny_model: Path) -> Subject:
    return open_subject(str(tiny_model), device="cpu", dtype="fp32")


def test_variants_are_compared_with_many_steps(subject: Subject, tmp_path: Path) -> None:
    rows, against, picture = Rows(tmp_path / "rows.jsonl"), steps.parse_variant("ddim:4"), tmp_path / "picture.png"
    write_image(picture, picture_of(PICTURE, 16, 12))
    texts = ("ddim:4:tile_overlap=4", "unipc:2", "dpm:2:guidance_scale=2", "ddim:3:no_such=1")
    steps.compare_variants(subject, [*map(steps.parse_variant, texts)], against, [picture], rows, "tiny")
    truth, same, unipc, dpm, unknown = rows.all
    assert [row["variant"] for row in rows.all if "error" in row] == [texts[-1]]
    assert "psnr_y" not in truth and same["psnr_y"] == 99
    assert all(0 < row["psnr_y"] < 99 and row["seconds"] > 0 for row in (unipc, dpm))
    assert "no_such" in unknown["error"] and rows.failed == 1
    shown = steps.show(rows.all, markdown=False)
    assert all(text in shown for text in (*texts, "PSNR-Y", "of the time", "no_such"))
    assert not isinstance(subject.pipe.scheduler, DDIMScheduler)  # its own again
    assert len(read_lines(tmp_path / "rows.jsonl")) == 5


@pytest.mark.parametrize("text", ["ddim", "ddim:", "euler:8", "ddim:few", "ddim:8:guidance_scale"])
def test_what_is_no_variant_shows_one(text: str) -> None:
    with pytest.raises(InputError, match="such as unipc:8"):
        steps.parse_variant(text)


def test_steps_want_a_model_that_takes_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["steps", "--model", "mini", "--suite", str(PICTURE.parent), "--count", "1"]) == 2
    assert "the one step that this model has learned" in capsys.readouterr().err
    assert command.main(["steps", "--model", "mini", "--suite", str(tmp_path)]) == 2
    assert "no pictures" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["steps", "--model", "mini", "--suite", str(PICTURE.parent), "--count", "0"])
    assert "--count: invalid positive number value: '0'" in capsys.readouterr().err


# Rows, tables, the command


def test_rows_go_to_the_file_at_once_with_machine_time_and_commit(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add({"kind": "part", "seconds": 1.0})
    rows.add({"kind": "peer", "error": "out of memory"})
    lines = [line for _, line in read_lines(tmp_path / "rows.jsonl")]
    assert [line["kind"] for line in lines] == ["part", "peer"] and rows.failed == 1
    assert lines[0].keys() >= {"processor", "cores", "machine", "versions", "date", "commit"}
    assert lines[0]["versions"].keys() >= {"python", "xpsr", "torch", "diffusers", "transformers"}
    with pytest.raises(InputError, match="cannot be written"):
        Rows(tmp_path / "nowhere" / "rows.jsonl")


def test_a_table_says_once_what_all_rows_share() -> None:
    rows = [{"model": "mini", "part": "encode", "s": "1.5"}, {"model": "mini", "part": "whole", "s": "12.25"}]
    assert table(rows).splitlines() == ["model: mini", "", "part        s", "encode    1.5", "whole   12.25"]
    assert table(rows, markdown=True).splitlines()[2:] == [
        "| part | s |",
        "| --- | --- |",
        "| encode | 1.5 |",
        "| whole | 12.25 |",
    ]
    assert table(rows[:1]).splitlines() == ["model  part      s", "mini   encode  1.5"]
    assert table([]) == ""


def test_combinations_are_all_of_what_is_given_several_times() -> None:
    arguments = ["--model", "mini", "full", "--size", "8", "16x12", "--threads", "1", "2", "--dtype", "fp32"]
    found = list(command.combinations(command.parser().parse_args(arguments)))
    assert len(found) == 8 and found[0].parts == PARTS
    assert {(one.width, one.height) for one in found} == {(8, 8), (16, 12)}


def test_sizes_are_of_the_output_and_of_the_whole() -> None:
    found = list(command.combinations(command.parser().parse_args(["--sizes", "256", "512x384"])))
    assert [(one.width, one.height, one.parts) for one in found] == [(64, 64, ("whole",)), (128, 96, ("whole",))]


@pytest.mark.parametrize("arguments", [["--size", "0"], ["--size", "big"], ["--threads", "-1"], ["--parts", "all"]])
def test_arguments_that_cannot_be_used_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_a_peer_or_reference_that_is_none_is_refused_before_anything_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--peer", "cp {input} there.png"]) == 2
    assert command.main(["--reference", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "{output}" in lines[0]
    assert lines[1].startswith(f"benchmarks: --reference {tmp_path} holds no models/xpsr/controlnet.py; clone")


def test_the_command_measures_prints_and_keeps_failures_too(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(module: str, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert module == "benchmarks.parts"
        try:
            return parts.answer(json.loads(json.dumps(request)))
        except InputError as error:
            raise BenchmarkError(str(error)) from error

    monkeypatch.setattr(command, "ask_worker", ask)  # in this process, which has imported everything
    monkeypatch.setattr("benchmarks.peak.matrix_peak.__defaults__", ((64,),))
    rows, arguments = tmp_path / "rows.jsonl", ["--model", str(tiny_model), "--size", "8", "--device", "cpu"]
    arguments += ["--parts", "whole", "--runs", "1", "--warm-up", "0", "--dtype", "fp32", "fp8", "--profile"]
    assert command.main([*arguments, "-o", str(rows), "--peer", "cp {input} {output}"]) == 1
    printed = capsys.readouterr().out
    for text in ("of peak", "convolution", "dtype=fp8 is not one of", "memory, x ours", "output: 32x32"):
        assert text in printed
    kinds = [(line["kind"], "error" in line) for _, line in read_lines(rows)]
    assert kinds == [("part", False), ("part", True), ("peer", False)]


def test_reports_show_ratios_to_ours() -> None:
    rows = Rows(None)
    shared = {"kind": "reference", "latents": "64x64", "device": "cpu", "dtype": "fp32", "threads": 1}
    costs = {"seconds_min": 1.0, "seconds_max": 9.0, "parameters": {"unet": 1107755524}}
    rows.add({**shared, **costs, "side": "ours", "seconds": 2.0, "cpu_seconds": 2.0, "peak_mb": 1000})
    rows.add({**shared, **costs, "side": "reference", "seconds": 5.0, "cpu_seconds": 6.0, "peak_mb": 1500})
    shown = show_reference(rows, markdown=True)
    assert "| 2.50 | 3.00 | 1.50 |" in shown and "unet parameters: 1,107,755,524" in shown
    assert not any(report(rows, markdown=False) for report in (show_parts, show_operators, show_peers))


@pytest.mark.slow
def test_the_command_runs_workers_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(tiny_model), "--size", "8", "--threads", "1", "--runs", "1", "-o", str(tmp_path / "r")]
    run = run_command([sys.executable, "-m", "benchmarks", *arguments])
    assert [line["part"] for _, line in read_lines(tmp_path / "r")] == list(PARTS)
    assert "GFLOP/s" in run.output
