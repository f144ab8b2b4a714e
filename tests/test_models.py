"""The networks at tiny sizes, compared with the stock ones that they extend."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from hypothesis import given, settings
from hypothesis import strategies as st
from network_helpers import TINY, Config
from torch import nn

from xpsr.checkpoint import load_strict
from xpsr.models import (
    DeepHaarAutoencoder,
    SemanticFusionAttention,
    WindowAttnProcessor,
    XPSRControlNet,
    XPSRControlNetOutput,
    XPSRUNet,
    predict_one_step,
    predict_original_sample,
)

quick = settings(deadline=None, max_examples=25, derandomize=True)
TEXT_LENGTH = 5


def randomize(network: nn.Module, seed: int = 0) -> None:
    """Draws every parameter anew, so that none is zero and none is like another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                fan_in = max(parameter[0].numel(), 1)
                parameter.copy_(0.8 * fan_in**-0.5 * torch.randn(parameter.shape, generator=generator))


def stock_unet(**changes: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel.from_config({**TINY, **changes})
    randomize(unet)
    return unet.eval()


def tiny_unet(**changes: Any) -> XPSRUNet:
    unet = XPSRUNet.from_config({**TINY, **changes})
    randomize(unet, seed=1)
    return unet.eval()


def tiny_controlnet(**changes: Any) -> XPSRControlNet:
    stock = stock_unet(**changes)
    controlnet = XPSRControlNet.from_unet(stock, conditioning_embedding_out_channels=(4, 6, 8))  # two halvings
    randomize(controlnet, seed=2)
    return controlnet.eval()


def random_tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def inputs_of(unet: UNet2DConditionModel, size: tuple[int, int] = (8, 8), batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Latents, timesteps and content embeddings."""
    config = unet.config
    text_width = config.encoder_hid_dim or config.cross_attention_dim
    sample, text = random_tensors((batch, config.in_channels, *size), (batch, TEXT_LENGTH, text_width))
    return sample, torch.tensor([37, 801][:batch]), text


def residuals_of(unet: UNet2DConditionModel, inputs: tuple[torch.Tensor, ...], **options: Any) -> list[torch.Tensor]:
    """Random residuals, the middle one last, of the shapes that the stock UNet's skips have."""
    shapes = []
    handles = [unet.conv_in.register_forward_hook(lambda module, args, output: shapes.append(output.shape))]
    for block in unet.down_blocks:
        handles.append(
            block.register_forward_hook(lambda module, args, output: shapes.extend(x.shape for x in output[1]))
        )
    with torch.no_grad():
        unet(*inputs, **options)
    for handle in handles:
        handle.remove()
    return random_tensors(*shapes, shapes[-1], seed=3)


def control(controlnet: XPSRControlNet, size: tuple[int, int] = (8, 8), **options: Any) -> XPSRControlNetOutput:
    """One pass over random inputs; `quality_hidden_states` is given unless an option says otherwise."""
    height, width = size
    sample, text, quality, noise = random_tensors(
        (2, 4, *size), (2, TEXT_LENGTH, 12), (2, TEXT_LENGTH + 2, 12), (2, 3, height * 4, width * 4)
    )
    options = {"quality_hidden_states": quality, **options}
    return controlnet(sample, torch.tensor([37, 801]), text, noise.sigmoid(), **options)


def assert_starts_as_stock(stock: UNet2DConditionModel, size: tuple[int, int] = (8, 8), **options: Any) -> XPSRUNet:
    """`from_unet` computes bit for bit what the stock UNet does with the same residuals."""
    unet = XPSRUNet.from_unet(stock).eval()
    inputs = inputs_of(stock, size)
    *residuals, middle = residuals_of(stock, inputs, **options)
    with torch.no_grad():
        expected = stock(
            *inputs, down_block_additional_residuals=residuals, mid_block_additional_residual=middle, **options
        ).sample
        output = unet(*inputs, residuals, middle, **options).sample
    assert torch.equal(output, expected)
    assert output.isfinite().all()
    return unet


# Configs

SDXL_EXTRAS = {
    "added_cond_kwargs": {"text_embeds": torch.ones(2, 10), "time_ids": torch.arange(12.0).view(2, 6)},
}
CONFIGS: dict[str, tuple[Config, Config]] = {  # what is unlike TINY, and what the call then needs
    "as it is": ({}, {}),
    "two layers": ({"layers_per_block": 2}, {}),
    "layers per block": ({"layers_per_block": (1, 2)}, {}),
    "one block": (
        {
            "block_out_channels": (8,),
            "down_block_types": ("CrossAttnDownBlock2D",),
            "up_block_types": ("CrossAttnUpBlock2D",),
        },
        {},
    ),
    "plain blocks only": (
        {
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "mid_block_type": "UNetMidBlock2D",
        },
        {},
    ),
    "plain after cross": (
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        {},
    ),
    "encoder of another kind": ({"down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D")}, {}),
    "linear projection": ({"use_linear_projection": True}, {}),
    "heads per block": ({"attention_head_dim": (1, 4)}, {}),
    "plain middle": ({"mid_block_type": "UNetMidBlock2D"}, {}),
    "no middle": ({"mid_block_type": None}, {}),
    "scale and shift": ({"resnet_time_scale_shift": "scale_shift"}, {}),
    "cross-attention only": ({"only_cross_attention": True}, {}),
    "upcast attention": ({"upcast_attention": True}, {}),
    "deep transformers": ({"transformer_layers_per_block": (2, 1)}, {}),
    "SDXL": (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 34,
            "transformer_layers_per_block": (1, 3),
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
        },
        SDXL_EXTRAS,
    ),
    "text embedding added to the time": (
        {"addition_embed_type": "text", "addition_embed_type_num_heads": 3},
        {},
    ),
    "class labels": ({"num_class_embeds": 5}, {"class_labels": torch.tensor([0, 4])}),
    "class timesteps": ({"class_embed_type": "timestep"}, {"class_labels": torch.tensor([0, 350])}),
    "class projection": (
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 6},
        {"class_labels": torch.ones(2, 6)},
    ),
    "concatenated class": (
        {"num_class_embeds": 5, "class_embeddings_concat": True},
        {"class_labels": torch.tensor([0, 4])},
    ),
    "text projection": ({"encoder_hid_dim": 20}, {}),
    "timestep condition": ({"time_cond_proj_dim": 6}, {"timestep_cond": torch.ones(2, 6)}),
    "Fourier time": ({"time_embedding_type": "fourier"}, {}),
    "time activation": ({"time_embedding_act_fn": "silu"}, {}),
    "centred input": ({"center_input_sample": True}, {}),
    "wide convolutions": ({"conv_in_kernel": 5, "conv_out_kernel": 5}, {}),
    "many channels in": ({"in_channels": 9, "out_channels": 6}, {}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_any_config_starts_as_the_stock_unet(name: str) -> None:
    changes, options = CONFIGS[name]
    assert_starts_as_stock(stock_unet(**changes), **options)


def test_with_zero_residuals_it_is_the_stock_unet_alone() -> None:
    stock = stock_unet()
    unet, inputs = XPSRUNet.from_unet(stock), inputs_of(stock)
    *residuals, middle = [torch.zeros_like(residual) for residual in residuals_of(stock, inputs)]
    with torch.no_grad():
        assert torch.equal(unet(*inputs, residuals, middle).sample, stock(*inputs).sample)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    count = draw(st.integers(1, 3))
    per_block = lambda values: st.lists(values, min_size=count, max_size=count).map(tuple)  # noqa: E731
    layers = st.integers(1, 2)
    return {
        "block_out_channels": draw(per_block(st.sampled_from([8, 12, 16]))),
        "down_block_types": draw(per_block(st.sampled_from(["CrossAttnDownBlock2D", "DownBlock2D"]))),
        "up_block_types": draw(per_block(st.sampled_from(["CrossAttnUpBlock2D", "UpBlock2D"]))),
        "layers_per_block": draw(layers | per_block(layers)),
        "transformer_layers_per_block": draw(layers | per_block(layers)),
        "attention_head_dim": draw(st.sampled_from([1, 2, 4]) | per_block(st.sampled_from([1, 2, 4]))),
        "mid_block_type": draw(st.sampled_from(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"])),
        "use_linear_projection": draw(st.booleans()),
    }


@pytest.mark.slow
@quick
@given(changes=configs(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_blocks_of_any_kind_number_and_size_start_as_the_stock_unet(changes: Config, height: int, width: int) -> None:
    unet = assert_starts_as_stock(stock_unet(**changes), (height, width))
    for block in unet.up_blocks:
        assert len(block.conditional_attentions) == len(block.resnets)


@quick
@given(changes=configs(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_both_networks_fit_together_in_any_config(changes: Config, height: int, width: int) -> None:
    if not isinstance(changes["layers_per_block"], int):
        changes["layers_per_block"] = 2  # diffusers' ControlNet knows one number for all blocks
    unet, controlnet = tiny_unet(**changes), tiny_controlnet(**changes)
    with torch.no_grad():
        result = control(controlnet, (height, width))
        sample, timestep, text = inputs_of(unet, (height, width))
        output = unet(sample, timestep, text, result.down_block_res_samples, result.mid_block_res_sample).sample
    assert output.shape == sample.shape
    assert output.isfinite().all()
    assert [image.shape for image in result.images] == [
        (2, 3, height * 2, width * 2),
        (2, 3, height, width),
    ]
    residuals = [*result.down_block_res_samples, result.mid_block_res_sample]
    assert [latents.shape for latents in result.latents] == [(2, 4, *residual.shape[-2:]) for residual in residuals]


@pytest.mark.parametrize("block", ["AttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"])
def test_unknown_decoder_blocks_are_refused(block: str) -> None:
    with pytest.raises(ValueError, match=f"up_block_types holds {block}; XPSRUNet knows UpBlock2D and CrossAttnUp"):
        tiny_unet(up_block_types=(block, "CrossAttnUpBlock2D"))


def test_blue_first_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'rgb'"):
        XPSRControlNet.from_unet(stock_unet(), controlnet_conditioning_channel_order="bgr")


@pytest.mark.parametrize(
    "changes", [{"conv_in_kernel": 5}, {"time_embedding_dim": 64}, {"time_embedding_type": "fourier"}], ids=str
)
def test_unet_that_a_controlnet_cannot_copy_is_refused(changes: Config) -> None:
    with pytest.raises(ValueError, match=r"this UNet's config has no ControlNet; \d+ shapes differ, first "):
        XPSRControlNet.from_unet(stock_unet(**changes))


# UNet


def test_random_start_differs_from_the_stock_unet() -> None:
    stock = stock_unet()
    unet, inputs = XPSRUNet.from_unet(stock, zero_init=False), inputs_of(stock)
    *residuals, middle = [torch.zeros_like(residual) for residual in residuals_of(stock, inputs)]
    with torch.no_grad():
        assert not torch.allclose(unet(*inputs, residuals, middle).sample, stock(*inputs).sample, atol=0.01)


def test_conditional_parameters_are_all_that_the_stock_unet_lacks() -> None:
    stock = stock_unet()
    unet = XPSRUNet.from_unet(stock)
    ours = {name for name, _ in unet.named_parameters()} - {name for name, _ in stock.named_parameters()}
    names = {id(parameter): name for name, parameter in unet.named_parameters()}
    assert {names[id(parameter)] for parameter in unet.conditional_parameters()} == ours


def test_every_residual_is_both_added_and_attended_to() -> None:
    unet = tiny_unet()
    inputs = inputs_of(unet)
    *residuals, middle = residuals_of(stock_unet(), inputs)

    @torch.no_grad()
    def output_of(network: XPSRUNet, changed: int) -> torch.Tensor:
        given = [residual + (index == changed) for index, residual in enumerate(residuals)]
        return network(*inputs, given, middle).sample

    silent = copy.deepcopy(unet)
    silent.zero_conditional_attentions()
    for index in range(len(residuals)):
        added = output_of(silent, index) - output_of(silent, -1)
        both = output_of(unet, index) - output_of(unet, -1)
        assert added.abs().max() > 1e-3
        assert (both - added).abs().max() > 1e-3


def test_tuple_holds_what_the_output_holds() -> None:
    unet = tiny_unet()
    inputs = inputs_of(unet)
    *residuals, middle = residuals_of(stock_unet(), inputs)
    with torch.no_grad():
        (sample,) = unet(*inputs, residuals, middle, return_dict=False)
        assert torch.equal(sample, unet(*inputs, tuple(residuals), middle).sample)


# ControlNet


def test_without_quality_it_is_the_stock_controlnet() -> None:
    ours = tiny_controlnet()
    config = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    stock = ControlNetModel.from_config(config).eval()
    renamed = {
        key.replace(".content.", ".").replace("image_encoder.", "controlnet_cond_embedding."): value
        for key, value in ours.state_dict().items()
    }
    stock.load_state_dict({key: renamed[key] for key in stock.state_dict()})
    sample, text, noise = random_tensors((2, 4, 7, 9), (2, TEXT_LENGTH, 12), (2, 3, 28, 36))
    for options in ({}, {"conditioning_scale": 0.7}, {"guess_mode": True, "conditioning_scale": 0.9}):
        with torch.no_grad():
            expected = stock(sample, 501, text, noise.sigmoid(), **options)
            output = ours(sample, 501, text, noise.sigmoid(), **options)
        pairs = zip(output.down_block_res_samples, expected.down_block_res_samples, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert torch.equal(output.mid_block_res_sample, expected.mid_block_res_sample)


def test_fusion_without_quality_is_the_content_attention() -> None:
    fusion = tiny_controlnet().down_blocks[0].attentions[0]
    assert isinstance(fusion, SemanticFusionAttention)
    hidden, text, quality = random_tensors((2, 8, 3, 5), (2, 6, 12), (2, 4, 12))
    with torch.no_grad():
        (alone,) = fusion(hidden, text)
        assert torch.equal(alone, fusion.content(hidden, text, return_dict=False)[0])
        (fused,) = fusion(hidden, text, {"quality_hidden_states": quality})
    assert fused.shape == hidden.shape
    assert not torch.allclose(fused, alone, atol=0.01)


def test_scales_touch_residuals_only() -> None:
    controlnet = tiny_controlnet()
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    with torch.no_grad():
        plain, half, masked = (
            control(controlnet),
            control(controlnet, conditioning_scale=0.5),
            control(controlnet, fg_mask=mask),
        )
    for other in (half, masked):
        assert all(torch.equal(a, b) for a, b in zip(plain.images, other.images, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(plain.latents, other.latents, strict=True))
    for before, after in zip(plain.down_block_res_samples, half.down_block_res_samples, strict=True):
        assert torch.equal(before * 0.5, after)
    for before, after in zip(plain.down_block_res_samples, masked.down_block_res_samples, strict=True):
        columns = before.shape[-1] // 2
        torch.testing.assert_close(after[..., :columns], 1.5 * before[..., :columns])
        torch.testing.assert_close(after[..., columns:], 0.6 * before[..., columns:])


def test_from_unet_can_leave_the_weights_alone() -> None:
    stock = stock_unet()
    copied = XPSRControlNet.from_unet(stock).conv_in.weight
    assert torch.equal(copied, stock.conv_in.weight)
    assert copied.data_ptr() != stock.conv_in.weight.data_ptr()
    fresh = XPSRControlNet.from_unet(stock, load_weights_from_unet=False)
    assert not torch.equal(fresh.conv_in.weight, stock.conv_in.weight)


def test_a_new_controlnet_says_nothing() -> None:
    with torch.no_grad():
        result = control(XPSRControlNet.from_unet(stock_unet(), conditioning_embedding_out_channels=(4, 6, 8)))
    assert not any(residual.any() for residual in (*result.down_block_res_samples, result.mid_block_res_sample))


# Both


def losses_of(unet: XPSRUNet, controlnet: XPSRControlNet) -> list[torch.Tensor]:
    """One number of everything that training looks at."""
    result = control(controlnet)
    sample, timestep, text = inputs_of(unet)
    output = unet(sample, timestep, text, result.down_block_res_samples, result.mid_block_res_sample).sample
    return [value.square().mean() for value in (output, *result.images, *result.latents)]


def gradients_of(unet: XPSRUNet, controlnet: XPSRControlNet) -> dict[str, torch.Tensor | None]:
    sum(losses_of(unet, controlnet), torch.zeros(())).backward()
    named = {**dict(unet.named_parameters(prefix="unet")), **dict(controlnet.named_parameters(prefix="controlnet"))}
    return {name: parameter.grad for name, parameter in named.items()}


@pytest.mark.parametrize("window", [None, 3])
def test_every_parameter_gets_a_gradient(window: int | None) -> None:
    gradients = gradients_of(tiny_unet(conditional_attention_window=window), tiny_controlnet())
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("window", [None, 3])
def test_gradient_checkpointing_changes_no_number(window: int | None) -> None:
    networks = tiny_unet(conditional_attention_window=window), tiny_controlnet()
    saving = copy.deepcopy(networks)
    for network in saving:
        network.enable_gradient_checkpointing()
    for loss, other in zip(losses_of(*networks), losses_of(*saving), strict=True):
        assert torch.equal(loss, other)
    gradients, others = gradients_of(*networks), gradients_of(*saving)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-7)


def test_gradient_checkpointing_computes_attentions_and_the_decoder_again() -> None:
    unet, controlnet = tiny_unet(), tiny_controlnet()
    calls: dict[nn.Module, int] = {}
    decoder = {resnet for block in unet.up_blocks for resnet in block.resnets}
    for network in (unet, controlnet):
        network.enable_gradient_checkpointing()
        for module in network.modules():
            if isinstance(module, BasicTransformerBlock) or module in decoder:
                calls[module] = 0
                module.register_forward_pre_hook(lambda layer, args: calls.update({layer: calls[layer] + 1}))
    gradients_of(unet, controlnet)
    assert set(calls.values()) == {2}


def test_copy_is_equal_and_apart() -> None:
    networks = tiny_unet(conditional_attention_window=3), tiny_controlnet()
    copies = copy.deepcopy(networks)
    before = losses_of(*networks)
    assert all(torch.equal(a, b) for a, b in zip(before, losses_of(*copies), strict=True))
    for network in copies:
        randomize(network, seed=9)
    assert not any(torch.equal(a, b) for a, b in zip(before, losses_of(*copies), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, losses_of(*networks), strict=True))


def settings_of(network: ModelMixin) -> Config:
    """The config without diffusers' own notes; JSON knows no tuples."""
    own = {key: value for key, value in network.config.items() if not key.startswith("_")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}


def reload(network: ModelMixin, folder: Path) -> ModelMixin:
    network.save_pretrained(folder / "network")
    loaded = load_strict(type(network), folder, subfolder="network")
    assert settings_of(loaded) == settings_of(network)
    return loaded


@pytest.mark.parametrize(
    "changes", [{}, {"conditional_attention_window": 3}, CONFIGS["SDXL"][0]], ids=["tiny", "window", "SDXL"]
)
def test_saved_unet_comes_back_bit_for_bit(changes: Config, tmp_path: Path) -> None:
    unet = tiny_unet(**changes)
    options = SDXL_EXTRAS if "addition_embed_type" in changes else {}
    loaded = reload(unet, tmp_path)
    inputs = inputs_of(unet)
    stock_changes = {key: value for key, value in changes.items() if key != "conditional_attention_window"}
    *residuals, middle = residuals_of(stock_unet(**stock_changes), inputs, **options)
    with torch.no_grad():
        expected = unet(*inputs, residuals, middle, **options).sample
        assert torch.equal(loaded(*inputs, residuals, middle, **options).sample, expected)
    assert loaded.config.conditional_attention_window == changes.get("conditional_attention_window")


def test_saved_controlnet_comes_back_bit_for_bit(tmp_path: Path) -> None:
    controlnet = tiny_controlnet()
    loaded = reload(controlnet, tmp_path)
    with torch.no_grad():
        expected, result = control(controlnet), control(loaded)
    for field in ("down_block_res_samples", "images", "latents"):
        assert all(torch.equal(a, b) for a, b in zip(result[field], expected[field], strict=True))
    assert torch.equal(result.mid_block_res_sample, expected.mid_block_res_sample)


# Windows


def tiny_attention(context_width: int | None = None) -> Attention:
    attention = Attention(query_dim=8, cross_attention_dim=context_width, heads=2, dim_head=4)
    randomize(attention)
    return attention.eval()


grid_lengths = st.integers(1, 7)


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int]:
    """Size and shift."""
    size = draw(st.integers(1, 5))
    return size, draw(st.integers(0, size - 1))


def lines_of(length: int, window: tuple[int, int]) -> tuple[int, int]:
    """Size and shift along a side: a side shorter than the window is one window."""
    return window if length >= window[0] else (length, 0)


@pytest.mark.parametrize("context_width", [None, 6])
@pytest.mark.parametrize(("size", "window"), [(1, 1), (2, 2), (5, 5), (4, 5), (3, 8)])
def test_window_of_the_whole_grid_or_more_is_full_attention(size: int, window: int, context_width: int | None) -> None:
    attention = tiny_attention(context_width)
    hidden, context = random_tensors((2, size * size, 8), (2, size * size, context_width or 8))
    context = None if context_width is None else context
    with torch.no_grad():
        expected = attention(hidden, context)
        attention.set_processor(WindowAttnProcessor(window, window // 2 if window > size else 0))
        torch.testing.assert_close(attention(hidden, context, height=size, width=size), expected)


@quick
@given(height=grid_lengths, width=grid_lengths, window=windows())
@torch.no_grad()
def test_windows_attend_within_themselves_and_see_the_edge_repeated(
    height: int, width: int, window: tuple[int, int]
) -> None:
    (tall, up), (wide, left_shift) = lines_of(height, window), lines_of(width, window)
    attention = tiny_attention(6)
    hidden, context = random_tensors((2, height * width, 8), (2, height * width, 6))
    expected = torch.empty_like(hidden)
    for top in range(-up, height, tall):
        for left in range(-left_shift, width, wide):
            rows, columns = range(top, top + tall), range(left, left + wide)
            seen = [
                min(max(row, 0), height - 1) * width + min(max(column, 0), width - 1)
                for row in rows
                for column in columns
            ]
            own = [
                row * width + column for row in rows for column in columns if 0 <= row < height and 0 <= column < width
            ]
            expected[:, own] = attention(hidden[:, own], context[:, seen])
    attention.set_processor(WindowAttnProcessor(*window))
    output = attention(hidden, context, height=height, width=width)
    assert output.isfinite().all()
    torch.testing.assert_close(output, expected)


@quick
@given(height=grid_lengths, width=grid_lengths, window=windows(), data=st.data())
@torch.no_grad()
def test_tokens_outside_a_window_do_not_influence_it(
    height: int, width: int, window: tuple[int, int], data: st.DataObject
) -> None:
    (tall, up), (wide, left) = lines_of(height, window), lines_of(width, window)
    attention = tiny_attention()
    attention.set_processor(WindowAttnProcessor(*window))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    (hidden,) = random_tensors((1, height * width, 8))
    changed = hidden.clone()
    changed[:, row * width + column] += 1
    difference = attention(changed, height=height, width=width) - attention(hidden, height=height, width=width)
    touched = difference.abs().amax((0, 2)).view(height, width) > 1e-4
    rows, columns = (torch.arange(height) + up) // tall, (torch.arange(width) + left) // wide
    same = (rows == rows[row])[:, None] & (columns == columns[column])
    assert not touched[~same].any()
    assert touched[row, column]


def test_every_second_conditional_attention_is_shifted() -> None:
    unet = tiny_unet(conditional_attention_window=6, layers_per_block=2)
    for block in unet.up_blocks:
        layers = [attention.transformer_blocks[0] for attention in block.conditional_attentions]
        for index, layer in enumerate(layers):
            for attention in (layer.attn1, layer.attn2):
                assert isinstance(attention.processor, WindowAttnProcessor)
                assert (attention.processor.size, attention.processor.shift) == (6, 3 * (index % 2))


@quick
@given(batch=st.integers(1, 2), tokens=st.integers(4000, 9000), learning=st.booleans())
def test_feed_forward_gives_the_same_piece_by_piece(batch: int, tokens: int, learning: bool) -> None:
    layer = tiny_unet().up_blocks[0].conditional_attentions[0].transformer_blocks[0].ff
    (hidden,) = random_tensors((batch, tokens, layer.net[0].proj.in_features))
    taken = []
    layer.net[0].register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].shape[1]))
    with torch.set_grad_enabled(learning):
        made = layer(hidden)
    in_pieces = tokens > 4096 and not learning  # a graph holds every piece anyhow
    assert taken == ([4096] * (tokens // 4096) + [tokens % 4096] * (tokens % 4096 > 0) if in_pieces else [tokens])
    torch.testing.assert_close(made, FeedForward.forward(layer, hidden))


@quick
@given(height=st.integers(1, 9), width=st.integers(1, 9), window=st.integers(1, 5))
def test_windowed_unet_takes_any_size(height: int, width: int, window: int) -> None:
    unet = tiny_unet(conditional_attention_window=window)
    inputs = inputs_of(unet, (height, width))
    *residuals, middle = residuals_of(stock_unet(), inputs)
    with torch.no_grad():
        output = unet(*inputs, residuals, middle).sample
    assert output.shape == inputs[0].shape
    assert output.isfinite().all()


# Predictions


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_clean_latents_are_found_again(prediction_type: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    clean, noise = (value.double() for value in random_tensors((4, 3, 5, 6), (4, 3, 5, 6)))
    timesteps = torch.tensor([0, 37, 801, 999])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    output = {
        "epsilon": noise,
        "v_prediction": scheduler.get_velocity(clean, noise, timesteps),
        "sample": clean,
    }[prediction_type]
    found = predict_original_sample(scheduler, output, timesteps, noisy)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-9)
    single = predict_original_sample(scheduler, output[2:3], torch.tensor(801), noisy[2:3])
    torch.testing.assert_close(single, clean[2:3], rtol=0, atol=1e-9)


def test_unknown_prediction_type_is_refused() -> None:
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(ValueError, match="prediction_type='score' is unknown; use epsilon, v_prediction or sample"):
        predict_original_sample(scheduler, torch.ones(1, 1, 1, 1), torch.tensor(1), torch.ones(1, 1, 1, 1))


def test_a_residual_step_adds_what_the_networks_say() -> None:
    sample, output = torch.rand(2, 48, 11, 9), torch.rand(2, 48, 11, 9)
    step = partial(predict_one_step, DDPMScheduler(), output, torch.tensor(250), sample, residual=True)
    assert torch.equal(step(vae=AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)), sample + output)
    vae = DeepHaarAutoencoder(decoder_channels=4, decoder_layers=1)
    assert torch.equal(step(vae=vae), sample + vae.without_grid(output))
