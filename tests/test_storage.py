"""Weights that lie in memory in fewer bits, compiled blocks and offloading: what a `Restorer` does to its networks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from xpsr import Prior, Restorer
from xpsr.devices import resolve_offload, resolve_weights_dtype
from xpsr.errors import InputError
from xpsr.models import store_weights

PICTURE = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0))
STORED = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}


def restore(restorer: Restorer) -> torch.Tensor:
    return restorer.restore(PICTURE, Prior("a cat", "dark"), seed=1, settings={"num_inference_steps": 2}).picture.pixels


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> torch.Tensor:
    return restore(Restorer(tiny_model, device="cpu", dtype="fp32"))


def weight_bytes(restorer: Restorer) -> int:
    networks = restorer.pipe.unet, restorer.pipe.controlnet
    return sum(parameter.nbytes for network in networks for parameter in network.parameters())


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8"])
@torch.no_grad()
def test_stored_weights_give_what_rounded_ones_do(tiny_model: Path, name: str, expected: torch.Tensor) -> None:
    stored = Restorer(tiny_model, device="cpu", dtype="fp32", weights_dtype=name)
    rounded = Restorer(tiny_model, device="cpu", dtype="fp32")
    share = weight_bytes(stored) / weight_bytes(rounded)
    assert share < (0.35 if name == "fp8" else 0.6)
    for part in ("unet", "controlnet", "text_encoder"):
        theirs = dict(getattr(stored.pipe, part).named_parameters())
        assert getattr(stored.pipe, part).dtype == torch.float32
        assert {value.dtype for value in theirs.values()} == {torch.float32, STORED[name]}
        for key, parameter in getattr(rounded.pipe, part).named_parameters():
            read = parameter.to(torch.float16 if name == "fp8" else STORED[name])
            assert torch.equal(theirs[key].float(), read.to(theirs[key].dtype).float())
            parameter.copy_(theirs[key].float())
    found = restore(stored)
    # where in memory a weight begins decides how a product of matrices is rounded
    torch.testing.assert_close(found, restore(rounded), rtol=0, atol=1e-6)
    assert (found - expected).abs().max() < {"bf16": 0.01, "fp16": 1e-3, "fp8": 0.1}[name]
    assert not torch.equal(found, expected)


def test_any_number_of_threads_may_call_stored_weights(tiny_model: Path) -> None:
    restorer = Restorer(tiny_model, device="cpu", dtype="fp32", weights_dtype="bf16")
    alone = restore(restorer)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(alone, one) for one in pool.map(lambda _: restore(restorer), range(4)))


@torch.no_grad()
def test_stored_layers_compute_with_their_inputs_number_type() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)))
    store_weights(network, torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    types = [parameter.dtype for parameter in network.parameters()]
    assert types == [*[torch.bfloat16] * 2, torch.float8_e4m3fn, *[torch.bfloat16] * 3]
    assert network(torch.rand(1, 3, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "said"), [("bf16", "bf16"), ("auto", "fp32")])
def test_the_record_says_in_what_weights_were_stored(tiny_model: Path, name: str, said: str) -> None:
    restorer = Restorer(tiny_model, device="cpu", dtype="fp32", weights_dtype=name)  # type: ignore[arg-type]
    assert restorer.restore(PICTURE, Prior(), seed=1).record["weights_dtype"] == said


def test_what_saves_nothing_is_refused() -> None:
    assert resolve_weights_dtype("auto", "bf16") == resolve_weights_dtype("bf16", "bf16") == "bf16"
    assert resolve_weights_dtype("fp8", "fp16") == "fp8"
    for name, dtype, message in (
        ("fp32", "fp16", "weights_dtype=fp32 saves nothing where dtype is fp16; use auto or fp8."),
        ("bf16", "fp16", "weights_dtype=bf16 saves nothing where dtype is fp16; use auto or fp8."),
        ("fp4", "fp32", "weights_dtype=fp4 is not one of auto, fp32, bf16, fp16, fp8; use auto."),
    ):
        with pytest.raises(InputError) as caught:
            resolve_weights_dtype(name, dtype)  # type: ignore[arg-type]
        assert str(caught.value) == message


# Compilers


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_blocks_give_the_same(tiny_model: Path, expected: torch.Tensor) -> None:
    restorer = Restorer(tiny_model, device="cpu", dtype="fp32", compile="eager")
    blocks = [
        block
        for network in (restorer.pipe.unet, restorer.pipe.controlnet)
        for block in network.modules()
        if type(block).__name__ in network._repeated_blocks
    ]
    assert blocks and all(block._compiled_call_impl is not None for block in blocks)
    torch.testing.assert_close(restore(restorer), expected, rtol=0, atol=1e-5)


def test_a_compiler_that_is_not_there_is_named(tiny_model: Path) -> None:
    with pytest.raises(InputError, match=r"^compile=inductr is no compiler of torch's; use one of .*\binductor\b"):
        Restorer(tiny_model, device="cpu", compile="inductr")


# Offloading


@pytest.mark.parametrize("offload", ["model", "group"])
def test_a_cpu_has_nothing_to_offload_to(tiny_model: Path, offload: str) -> None:
    message = f"offload={offload} is for graphics cards: a CPU has no other memory to wait in; use none, or "
    with pytest.raises(InputError, match=f"^{message}"):
        Restorer(tiny_model, device="cpu", offload=offload)  # type: ignore[arg-type]
    assert resolve_offload("none", torch.device("cpu")) == "none"
    assert resolve_offload(offload, torch.device("cuda")) == offload  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "group"])
def test_what_is_offloaded_gives_the_same(tiny_model: Path, offload: str) -> None:
    plain = Restorer(tiny_model, device="cuda", dtype="fp16")
    moved = Restorer(tiny_model, device="cuda", dtype="fp16", offload=offload)  # type: ignore[arg-type]
    for _ in range(2):
        torch.testing.assert_close(restore(moved), restore(plain), rtol=0, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_of_eight_bits_are_computed_with_on_a_gpu(tiny_model: Path, dtype: str, expected: torch.Tensor) -> None:
    stored = Restorer(tiny_model, device="cuda", dtype=dtype, weights_dtype="fp8")  # type: ignore[arg-type]
    assert (restore(stored) - expected).abs().max() < 0.3


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_blocks_give_the_same_on_a_gpu(tiny_model: Path) -> None:
    plain = Restorer(tiny_model, device="cuda", dtype="fp16")
    compiled = Restorer(tiny_model, device="cuda", dtype="fp16", compile=True)
    torch.testing.assert_close(restore(compiled), restore(plain), rtol=0, atol=2e-2)
