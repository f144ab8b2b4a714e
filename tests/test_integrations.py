"""What users of diffusers do with networks and pipelines works on ours or says why it cannot; see docs/diffusers.md.

Schedulers are in test_pipeline.py, gradient checkpointing and copies of the networks in test_models.py.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from accelerate import cpu_offload, dispatch_model, infer_auto_device_map
from accelerate.utils import compute_module_sizes
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    ContextParallelConfig,
    ControlNetModel,
    TensorParallelConfig,
    UNet2DConditionModel,
)
from diffusers.hooks import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
)
from huggingface_hub import ModelCard
from network_helpers import TINY, Config
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from xpsr import Prior, XPSRPipeline
from xpsr.errors import InputError
from xpsr.model_files import bundled_models, checksums
from xpsr.models import WindowAttnProcessor, XPSRControlNet, XPSRUNet

ROOT = Path(__file__).parents[1]
Network = XPSRUNet | XPSRControlNet
Networks = tuple[XPSRUNet, XPSRControlNet]

ONE_LEVEL = {
    **TINY,
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("CrossAttnUpBlock2D",),
}
WITHOUT_TEXT = {**ONE_LEVEL, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}


def tiny_networks(window: int | None, config: Config = TINY, encoder: Sequence[int] = (4, 6, 8)) -> Networks:
    torch.manual_seed(0)
    unet = XPSRUNet.from_config({**config, "conditional_attention_window": window})
    controlnet = XPSRControlNet.from_unet(unet, conditioning_embedding_out_channels=tuple(encoder))
    for network in (unet, controlnet):
        for parameter in network.parameters():  # none is zero
            parameter.data.add_(0.2 * torch.randn(parameter.shape))
    return unet.eval(), controlnet.eval()


@pytest.fixture(params=[None, 3], ids=["whole grid", "windows"])
def networks(request: pytest.FixtureRequest) -> Networks:
    return tiny_networks(request.param)


def inputs_of(network: Network) -> dict[str, Any]:
    """What `network` is called with, always the same numbers."""
    random = torch.Generator().manual_seed(0)
    sample, text, quality, pixels, residual = (
        torch.randn(shape, generator=random)
        for shape in ((2, 4, 6, 8), (2, 5, 12), (2, 7, 12), (2, 3, 24, 32), (2, 16, 6, 8))
    )
    inputs = {"sample": sample, "timestep": torch.tensor([37, 801]), "encoder_hidden_states": text}
    if isinstance(network, XPSRControlNet):
        return {**inputs, "controlnet_cond": pixels.sigmoid(), "quality_hidden_states": quality}
    levels = len(network.config.block_out_channels)
    residuals = [residual[:, :8], residual[:, :8], residual[:, :8, ::2, ::2], residual[:, :, ::2, ::2]]
    residuals = residuals if levels == 2 else residuals[:2]
    return {**inputs, "down_block_additional_residuals": residuals, "mid_block_additional_residual": residuals[-1]}


def run(network: Network, call: Callable[..., Any] | None = None) -> list[torch.Tensor]:
    """All that the network (or `call`, made of it) puts out."""
    output = (network if call is None else call)(**inputs_of(network))
    if isinstance(network, XPSRUNet):
        return [output.sample]
    residuals = [*output.down_block_res_samples, output.mid_block_res_sample]
    return [*residuals, *output.images, *output.latents]


def distance(outputs: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    pairs = zip(outputs, others, strict=True)
    return max(float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in pairs)


@pytest.fixture(autouse=True)
def without_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("lora" in request.node.name):
        yield


# Pipelines


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> XPSRPipeline:
    return load(tiny_model)


@pytest.fixture
def pipe(loaded: XPSRPipeline) -> XPSRPipeline:
    """One that a test may change."""
    return copy.deepcopy(loaded)


def load(folder: Path, **options: Any) -> XPSRPipeline:
    pipe = XPSRPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def restore(pipe: XPSRPipeline, **options: Any) -> np.ndarray:
    """Two steps with noise, both texts, guidance and two tiles."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "prior": Prior("a dog", "noisy"), **options}
    result = pipe(image, generator=torch.Generator().manual_seed(0), output_type="np", **options).images[0]
    assert result.shape == (48, 80, 3)
    assert np.isfinite(result).all()
    return result


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> np.ndarray:
    return restore(load(tiny_model))


def test_a_copy_of_a_pipeline_is_equal_and_apart(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    other = copy.deepcopy(pipe)
    assert np.array_equal(restore(other), expected)
    other.unet.conv_out.weight.mul_(2)
    other.controlnet.conv_in.weight.mul_(2)
    assert not np.allclose(restore(other), expected, atol=0.01)
    assert np.array_equal(restore(pipe), expected)


def test_from_pipe_shares_components_and_keeps_settings(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    other = XPSRPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    assert all(other.components[name] is component for name, component in pipe.components.items())
    assert other.config == pipe.config
    assert np.array_equal(restore(other), expected)
    pipe.to(torch.bfloat16)
    assert XPSRPipeline.from_pipe(pipe, dtype=pipe.dtype).unet.dtype == torch.bfloat16


def test_from_pipe_takes_another_scheduler(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    other = XPSRPipeline.from_pipe(pipe, scheduler=scheduler)
    other.set_progress_bar_config(disable=True)
    assert other.scheduler is scheduler
    assert other.unet is pipe.unet
    assert pipe.scheduler is not scheduler
    assert not np.array_equal(restore(other), expected)
    assert np.array_equal(restore(pipe), expected)


def test_bfloat16_is_near_float32(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    pipe.to(torch.bfloat16)
    assert {pipe.unet.dtype, pipe.controlnet.dtype, pipe.vae.dtype} == {torch.bfloat16}
    assert np.abs(restore(pipe) - expected).max() < 0.05


def test_channels_last_changes_little(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.controlnet.to(memory_format=torch.channels_last)
    assert np.abs(restore(pipe) - expected).max() < 1e-4


def test_fp16_variant_is_saved_and_loaded(pipe: XPSRPipeline, expected: np.ndarray, tmp_path: Path) -> None:
    pipe.to(torch.float16).save_pretrained(tmp_path / "model", variant="fp16")
    stored = tmp_path / "model" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    assert stored.stat().st_size < 0.6 * sum(p.numel() * 4 for p in pipe.unet.parameters())
    again = load(tmp_path / "model", variant="fp16")
    assert again.unet.dtype == torch.float32
    assert np.abs(restore(again) - expected).max() < 0.01


def test_what_is_uploaded_has_its_checksums(
    pipe: XPSRPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: dict[str, str] = {}

    def upload(*, folder_path: str, **options: Any) -> None:
        uploaded.update(json.loads(Path(folder_path, "checksums.json").read_text()))

    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload)
    monkeypatch.setattr(
        "diffusers.pipelines.pipeline_utils.create_repo", lambda repo_id, **_: SimpleNamespace(repo_id=repo_id)
    )
    monkeypatch.setattr(
        "diffusers.pipelines.pipeline_utils.load_or_create_model_card", lambda *_, **__: ModelCard("---\n---\n")
    )
    pipe.save_pretrained(tmp_path / "model")
    pipe.unet.conv_in.bias.data.add_(1)
    pipe.save_pretrained(tmp_path / "model", push_to_hub=True)
    assert uploaded == checksums(tmp_path / "model")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own for what diffusers copies of a custom pipeline, and imports from there."""
    before = set(sys.modules)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield
    for name in {name for name in sys.modules if name.startswith("diffusers_modules")} - before:
        del sys.modules[name]


@pytest.mark.parametrize("place", ["", "pipeline.py"], ids=["folder", "file"])
def test_a_custom_pipeline_loads_a_folder_by_diffusers_own_loader(
    tiny_model: Path, expected: np.ndarray, modules: None, place: str
) -> None:
    source = str(ROOT / "integrations" / "diffusers" / place)
    options = {"custom_pipeline": source, "trust_remote_code": True}
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_model, **options)
    assert type(pipe) is XPSRPipeline
    pipe.set_progress_bar_config(disable=True)
    assert np.array_equal(restore(pipe), expected)


def test_a_custom_pipeline_loads_the_mini(modules: None) -> None:
    options = {"custom_pipeline": str(ROOT / "integrations" / "diffusers"), "trust_remote_code": True}
    pipe = diffusers.DiffusionPipeline.from_pretrained(bundled_models()["mini"], dtype=torch.float32, **options)
    assert {pipe.unet.dtype, pipe.controlnet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    picture = np.random.default_rng(0).random((12, 16, 3), dtype=np.float32)
    call = {"output_type": "pt", "settings": {"grain": 0}}  # which is drawn
    results = [one(picture, **call).images[0] for one in (pipe, load(bundled_models()["mini"]))]
    assert torch.equal(*results)


def test_a_custom_pipeline_is_code_that_somebody_has_to_trust(tiny_model: Path, modules: None) -> None:
    source = str(ROOT / "integrations" / "diffusers")
    with pytest.raises(ValueError, match="Pass `trust_remote_code=True`"):
        diffusers.DiffusionPipeline.from_pretrained(tiny_model, custom_pipeline=source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unnet": 3}, "unnet is not an option; did you mean 'unet'?"),
        ({"xyzzy": 3}, "xyzzy is not an option; leave it out."),
        (
            {"quantization_config": object()},
            "quantization_config is not for a pipeline; quantize a network and give it:"
            " unet=XPSRUNet.from_pretrained(..., quantization_config=...).",
        ),
        ({"proxies": {}}, "proxies are not taken by the hub's library; set the environment variable HTTPS_PROXY."),
        ({"torch_dtype": "float16"}, "torch_dtype=float16 is no torch.dtype; use torch.float16."),
        ({"dtype": 16}, "dtype=16 is no torch.dtype; use torch.float32."),
    ],
)
def test_keywords_that_would_be_passed_over_are_refused(
    options: dict[str, Any], message: str, tiny_model: Path
) -> None:
    with pytest.raises(InputError) as refused:
        load(tiny_model, **options)
    assert str(refused.value) == message


def test_attention_slicing_of_a_pipeline(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    pipe.enable_attention_slicing()
    assert SlicedAttnProcessor in kinds(pipe.unet)
    assert np.abs(restore(pipe) - expected).max() < 1e-4
    pipe.disable_attention_slicing()
    assert np.array_equal(restore(pipe), expected)


def test_tiles_and_slices_of_the_autoencoder(golden: Path) -> None:
    text_encoder = CLIPTextModel.from_pretrained(golden, subfolder="text_encoder")
    config = {**TINY, "cross_attention_dim": text_encoder.config.hidden_size}
    unet, controlnet = tiny_networks(None, config, encoder=(4, 4, 6, 8))
    pipe = XPSRPipeline(
        vae=AutoencoderKL.from_pretrained(golden, subfolder="vae"),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(golden, subfolder="tokenizer"),
        unet=unet,
        controlnet=controlnet,
        scheduler=diffusers.DDIMScheduler.from_pretrained(golden, subfolder="scheduler"),
    )
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "settings": {"min_working_size": 8, "tile_size": 16, "color_match": "none"}}
    whole = restore(pipe, **options)
    pipe.vae.enable_slicing()
    assert np.array_equal(restore(pipe, **options), whole)
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 64, 8
    tiled = restore(pipe, **options)
    assert 0 < np.abs(tiled - whole).mean() < 0.15  # its group norms see tiles, and its weights are untrained


# Attention


def kinds(network: Network) -> set[type]:
    return {type(processor) for processor in network.attn_processors.values()}


CHOICES: dict[str, tuple[Callable[[Network], Any], type]] = {
    "plain": (lambda network: network.set_attn_processor(AttnProcessor()), AttnProcessor),
    "sdpa": (lambda network: network.set_attn_processor(AttnProcessor2_0()), AttnProcessor2_0),
    "sliced": (lambda network: network.set_attn_processor(SlicedAttnProcessor(1)), SlicedAttnProcessor),
    "each by name": (
        lambda network: network.set_attn_processor({name: AttnProcessor() for name in network.attn_processors}),
        AttnProcessor,
    ),
    "half the heads": (lambda network: network.set_attention_slice("auto"), SlicedAttnProcessor),
    "one head": (lambda network: network.set_attention_slice("max"), SlicedAttnProcessor),
    "default": (lambda network: network.set_default_attn_processor(), AttnProcessor),
    "fused": (lambda network: network.fuse_qkv_projections(), FusedAttnProcessor2_0),
}


@pytest.mark.parametrize("name", CHOICES)
def test_any_processor_gives_the_same_and_windows_stay(networks: Networks, name: str) -> None:
    choose, kind = CHOICES[name]
    for network in networks:
        windows = {key: p for key, p in network.attn_processors.items() if isinstance(p, WindowAttnProcessor)}
        assert bool(windows) == bool(network.config.get("conditional_attention_window"))
        before = run(network)
        choose(network)
        assert kinds(network) == ({kind, WindowAttnProcessor} if windows else {kind})
        assert {key: network.attn_processors[key] for key in windows} == windows
        assert distance(run(network), before) < 1e-5


def test_fused_projections_can_be_split_again(networks: Networks) -> None:
    for network in networks:
        before, processors = run(network), network.attn_processors
        network.fuse_qkv_projections()
        network.unfuse_qkv_projections()
        assert network.attn_processors == processors
        assert distance(run(network), before) == 0


def test_a_kernel_can_be_chosen(networks: Networks) -> None:
    for network in networks:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            math = run(network)
        assert distance(math, run(network)) < 1e-5


# LoRA

TARGETS: dict[type, str] = {
    XPSRUNet: r".*\.conditional_attentions\..*\.to_[qkv]",
    XPSRControlNet: r".*\.fusion\..*\.to_[qkv]",
}


def with_lora(network: Network, *names: str) -> Network:
    from peft import LoraConfig

    network.requires_grad_(False)
    for name in names or ("default",):
        config = LoraConfig(r=2, target_modules=TARGETS[type(network)], init_lora_weights=False)
        network.add_adapter(config, name)
    return network


@pytest.mark.parametrize("index", [0, 1], ids=["unet", "controlnet"])
def test_lora_trains_what_was_chosen_and_nothing_else(networks: Networks, index: int) -> None:
    network = with_lora(networks[index])
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    losses = []
    for _ in range(2):
        loss = sum((output.square().mean() for output in run(network)), torch.zeros(()))
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    changed = {name.split(".lora_")[0] for name, parameter in network.named_parameters() if parameter.grad is not None}
    place = ".conditional_attentions." if index == 0 else ".fusion."
    attentions = {name for name, module in network.named_modules() if name.endswith(("attn1", "attn2"))}
    assert changed == {f"{name}.to_{kind}" for name in attentions if place in name for kind in "qkv"}


@pytest.mark.parametrize("index", [0, 1], ids=["unet", "controlnet"])
def test_lora_is_saved_loaded_merged_and_taken_off(networks: Networks, index: int, tmp_path: Path) -> None:
    bare, network = networks[index], with_lora(copy.deepcopy(networks[index]))
    before, after = run(bare), run(network)
    assert distance(after, before) > 0.01

    network.save_lora_adapter(tmp_path)
    again = copy.deepcopy(bare)
    again.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    assert distance(run(again), after) < 1e-5
    again.unload_lora()
    assert distance(run(again), before) < 1e-5

    network.disable_adapters()
    assert distance(run(network), before) < 1e-5
    network.enable_adapters()
    assert distance(run(network), after) < 1e-5
    network.fuse_lora()
    assert distance(run(network), after) < 1e-4
    network.unfuse_lora()
    assert distance(run(network), after) < 1e-4
    network.delete_adapters("default")
    assert distance(run(network), before) < 1e-4
    assert not any("lora" in name for name, _ in network.named_parameters())


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")  # of every second adapter
@pytest.mark.parametrize("index", [0, 1], ids=["unet", "controlnet"])
def test_lora_adapters_are_weighted_and_swapped(networks: Networks, index: int, tmp_path: Path) -> None:
    bare, network = networks[index], with_lora(copy.deepcopy(networks[index]), "one", "two")
    network.set_adapter("one")
    one = run(network)
    network.set_adapters(["one", "two"], [1.0, 0.0])
    assert network.active_adapters() == ["one", "two"]
    assert distance(run(network), one) < 1e-5
    network.set_adapters(["one", "two"], [0.0, 0.0])
    assert distance(run(network), run(bare)) < 1e-5

    network.save_lora_adapter(tmp_path, "one")
    other = copy.deepcopy(bare)
    other.enable_lora_hotswap(target_rank=4)
    with_lora(other, "one")
    other.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True, adapter_name="one", hotswap=True)
    assert distance(run(other), one) < 1e-5


# Compilers


@pytest.fixture(
    params=[  # compilers take their time for every layer
        pytest.param((None, 0, ONE_LEVEL), id="unet", marks=pytest.mark.slow),
        pytest.param((3, 0, WITHOUT_TEXT), id="unet with windows", marks=pytest.mark.slow),
        pytest.param((None, 1, ONE_LEVEL), id="controlnet"),
    ]
)
def smallest(request: pytest.FixtureRequest) -> Network:
    window, index, config = request.param
    return tiny_networks(window, config)[index]


@pytest.fixture
def compiler() -> Iterator[Any]:
    torch.compiler.reset()
    yield torch.compile
    torch.compiler.reset()


def test_networks_are_one_graph(smallest: Network, compiler: Any) -> None:
    assert distance(run(smallest, compiler(smallest, fullgraph=True, backend="eager")), run(smallest)) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # inside PyTorch
def test_compiled_networks_compute_the_same(smallest: Network, compiler: Any) -> None:
    assert distance(run(smallest, compiler(smallest, fullgraph=True)), run(smallest)) < 1e-5


@pytest.mark.slow
def test_a_compiled_pipeline_computes_the_same(pipe: XPSRPipeline, expected: np.ndarray, compiler: Any) -> None:
    pipe.unet.compile(fullgraph=True, backend="eager")
    pipe.controlnet.compile(fullgraph=True, backend="eager")
    assert np.abs(restore(pipe) - expected).max() < 1e-5


@pytest.mark.slow
def test_repeated_blocks_can_be_compiled_alone(smallest: Network, compiler: Any) -> None:
    before = run(smallest)
    smallest.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert distance(run(smallest), before) == 0


def test_exported_networks_compute_the_same(smallest: Network) -> None:
    program = torch.export.export(smallest, (), inputs_of(smallest))
    assert distance(run(smallest, program.module()), run(smallest)) < 1e-6


# Smaller weights


def test_weights_stored_as_fp8_are_near(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    for network in (pipe.unet, pipe.controlnet, pipe.vae):
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        assert torch.float8_e4m3fn in {parameter.dtype for parameter in network.parameters()}
        assert network.dtype == torch.float32
    error = np.abs(restore(pipe) - expected)
    assert 0 < error.mean() < 0.02


def test_int8_weights_are_near(networks: Networks) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    for network in networks:
        before = run(network)
        quantize_(network, Int8WeightOnlyConfig())
        linear = {type(module.weight).__name__ for module in network.modules() if type(module) is nn.Linear}
        assert linear == {"Int8Tensor"}
        assert 0 < distance(run(network), before) < 0.05


def test_int8_weights_are_made_while_loading(networks: Networks, tmp_path: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    config = diffusers.TorchAoConfig(Int8WeightOnlyConfig())
    for network in networks:
        folder = tmp_path / type(network).__name__
        network.save_pretrained(folder)
        loaded = type(network).from_pretrained(folder, quantization_config=config, dtype=torch.float32)
        assert type(loaded.time_embedding.linear_1.weight).__name__ == "Int8Tensor"
        assert 0 < distance(run(loaded), run(network)) < 0.05


def test_own_weights_are_loaded_from_a_single_file(networks: Networks, tmp_path: Path) -> None:
    for network in networks:
        folder = tmp_path / type(network).__name__
        network.save_pretrained(folder)
        file = folder / "diffusion_pytorch_model.safetensors"
        loaded = type(network).from_single_file(str(file), config=str(folder), local_files_only=True)
        assert distance(run(loaded), run(network)) == 0


# Offloading: where there is no GPU, weights that are on disk or on the meta device are as absent as on one


@pytest.mark.parametrize("blocks", [None, 1, 2], ids=["leaves", "blocks", "pairs of blocks"])
def test_groups_of_layers_come_back_from_disk(networks: Networks, blocks: int | None, tmp_path: Path) -> None:
    for network in networks:
        before = run(network)
        network.enable_group_offload(
            torch.device("cpu"),
            offload_type="block_level" if blocks else "leaf_level",
            num_blocks_per_group=blocks,
            offload_to_disk_path=str(tmp_path / type(network).__name__),
        )
        for parameter in network.parameters():
            parameter.data.fill_(float("nan"))  # as absent as it can be
        for _ in range(2):
            assert distance(run(network), before) == 0


def test_every_layer_comes_back_from_the_meta_device(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    for component in (pipe.unet, pipe.controlnet, pipe.vae, pipe.text_encoder):
        cpu_offload(component, torch.device("cpu"))  # what enable_sequential_cpu_offload does for each
        assert {parameter.device.type for parameter in component.parameters()} == {"meta"}
    assert np.array_equal(restore(pipe), expected)


def test_whole_models_are_offloaded_and_hooked_anew_after_each_call(pipe: XPSRPipeline, expected: np.ndarray) -> None:
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert np.array_equal(restore(pipe), expected)


@pytest.mark.filterwarnings("ignore:.*Device 0 is not available")
def test_a_device_map_splits_no_block_of_the_decoder(networks: Networks, tmp_path: Path) -> None:
    unet, before = networks[0], run(networks[0])
    size = compute_module_sizes(unet)[""]
    for part in (0.5, 0.6, 0.7, 0.8, 0.9):
        memory = {0: int(size * part), "cpu": size}
        places = infer_auto_device_map(unet, memory, no_split_module_classes=list(unet._no_split_modules))
        assert all(name.count(".") <= 1 for name in places if name.startswith("up_blocks"))
    places = {name: "cpu" for name, _ in unet.named_children() if name != "up_blocks"}
    places |= {f"up_blocks.{index}": "disk" for index in range(len(unet.up_blocks))}
    dispatch_model(unet, places, main_device="cpu", offload_dir=str(tmp_path))
    assert {parameter.device.type for parameter in unet.up_blocks.parameters()} == {"meta"}
    assert distance(run(unet), before) == 0


def on_gpu(pipe: XPSRPipeline, name: str) -> None:
    device = torch.device("cuda")
    match name:
        case "everything":
            pipe.to(device)
        case "model":
            pipe.enable_model_cpu_offload()
        case "sequential":
            pipe.enable_sequential_cpu_offload()
        case "blocks":
            pipe.enable_group_offload(device, num_blocks_per_group=1)
        case "leaves":
            pipe.enable_group_offload(device, offload_type="leaf_level")
        case "stream":
            pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["everything", "model", "sequential", "blocks", "leaves", "stream"])
def test_offloading_to_a_gpu_gives_what_the_cpu_gives(pipe: XPSRPipeline, expected: np.ndarray, name: str) -> None:
    on_gpu(pipe, name)
    for _ in range(2):
        assert np.abs(restore(pipe) - expected).max() < 0.02


# What cannot be


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda network: network.set_attention_backend("flash"), "no effect .*sdpa_kernel or .* set_attn_processor"),
        (lambda network: network.enable_cache(FirstBlockCacheConfig()), "FirstBlockCacheConfig: .* fewer num_infer"),
        (lambda network: network.enable_cache(FasterCacheConfig()), "FasterCacheConfig: "),
        (lambda network: network.enable_cache(PyramidAttentionBroadcastConfig()), "PyramidAttentionBroadcastConfig: "),
    ],
    ids=["set_attention_backend", "FirstBlockCache", "FasterCache", "PyramidAttentionBroadcast"],
)
def test_what_would_do_nothing_or_harm_says_so(
    networks: Networks, call: Callable[[Network], None], message: str
) -> None:
    for network in networks:
        with pytest.raises(NotImplementedError, match=message) as caught:
            call(network)
        assert "\n" not in str(caught.value)


def test_the_pipeline_does_not_offload_networks_to_one_folder(tiny_model: Path, tmp_path: Path) -> None:
    pipe = XPSRPipeline.from_pretrained(tiny_model)
    with pytest.raises(NotImplementedError, match="each network to a folder of its own"):
        pipe.enable_group_offload(torch.device("cpu"), offload_to_disk_path=str(tmp_path))


def test_freeu_says_that_it_is_not_there(networks: Networks) -> None:
    unet, _ = networks
    with pytest.raises(NotImplementedError, match="FreeU is not part"):
        unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    unet.disable_freeu()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda network: network.enable_npu_flash_attention(), ImportError),
        (lambda network: network.enable_parallelism(config=TensorParallelConfig(tp_degree=2)), ValueError),
        (
            lambda network: network.enable_parallelism(config=ContextParallelConfig(ring_degree=2)),
            RuntimeError,
        ),
    ],
    ids=["npu", "tensor parallel", "context parallel"],
)
def test_what_diffusers_refuses_itself(networks: Networks, call: Callable[[Network], None], error: type) -> None:
    for network in networks:
        with pytest.raises(error):
            call(network)


def test_the_documentation_speaks_of_every_switch() -> None:
    text = (ROOT / "docs" / "diffusers.md").read_text(encoding="utf-8")
    verbs = ("apply_", "compile_", "enable_", "fuse_", "load_", "set_")
    switches = {
        name for kind in (UNet2DConditionModel, ControlNetModel) for name in dir(kind) if name.startswith(verbs)
    }
    switches -= {*dir(nn.Module), *dir(ConfigMixin)}
    assert {name for name in switches if f"`{name}" not in text} == set()
