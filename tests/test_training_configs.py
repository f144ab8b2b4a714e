"""The configs that are shipped, and what a dry run says of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import TINY, batch, components

from xpsr.config import DataConfig, DegradationConfig, LossConfig, ModelConfig, TrainConfig, TrainRunConfig, load_config
from xpsr.data import generator_for
from xpsr.errors import InputError, ModelError
from xpsr.training import XPSRLoss, build_from_base, choose_parts, plan_run

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if path.stem != "degradation")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_read(path: Path) -> None:
    config = load_config(TrainRunConfig, path)
    assert config.train.output_dir != TrainRunConfig().train.output_dir
    # or every content text would be empty, where anything reads it
    assert config.data.priors is not None or config.parts.train == ("vae_decoder",)
    shown = {"canyon5.jpg", "forest3.jpg", "city4.jpg", "beach1.jpg"}  # by the project
    assert config.data.pairs is not None or shown <= set(config.data.exclude)


def test_there_is_a_config_for_every_kind_of_run() -> None:
    assert {path.stem for path in CONFIGS} == {
        *("1_decoder", "2_join", "3_sharpen", "4_cool"),
        *("finetune_lora", "one_step", "train_sd15"),
    }


def test_each_stage_of_the_mini_goes_on_from_the_one_before() -> None:
    stages = [load_config(TrainRunConfig, path) for path in sorted((FOLDER / "mini").glob("[0-9]_*.yaml"))]
    assert stages[0].model.path is None
    assert [stage.model.path for stage in stages[1:]] == [stage.train.output_dir / "model" for stage in stages[:-1]]
    assert {stage.data.pairs for stage in stages} == {stages[0].data.pairs}


def test_the_minis_degradation_is_read() -> None:
    assert load_config(DegradationConfig, FOLDER / "mini" / "degradation.yaml") != DegradationConfig()


@pytest.mark.slow
def test_the_papers_run_builds_on_the_meta_device() -> None:
    config = load_config(TrainRunConfig, next(path for path in CONFIGS if path.stem == "train_sd15"))
    config = replace(config, data=replace(config.data, crop_size=64), train=replace(config.train, batch_size=1))
    table = plan_run(config).partition("\n\n")[0].splitlines()[1:]
    rows = {line.split()[0]: line.split()[-2:] for line in table}
    # spec: 1107.76 M and 620.22 M, of which 248.23 M and all are trained
    assert rows["unet"] == ["1107.76", "248.23"]
    assert rows["controlnet"] == ["620.22", "620.22"]
    assert rows["text_encoder"][1] == rows["vae"][1] == "0.00"


def test_a_mini_is_planned_too() -> None:
    data, training = DataConfig(crop_size=32), TrainConfig(batch_size=2)
    said = plan_run(TrainRunConfig(model=TINY, data=data, train=training))
    assert "in all" in said and "days" in said
    table = {line.split()[0]: line.split()[-2:] for line in said.partition("\n\n")[0].splitlines()[1:]}
    assert table["vae_decoder"][0] == table["vae_decoder"][1] and "vae" not in table  # no weight is counted twice
    base = ModelConfig(base="nobody/nothing", conditioning_channels=(16, 32, 96, 256))
    with pytest.raises(ModelError, match="a dry run knows"):
        plan_run(TrainRunConfig(model=base))


def test_a_plan_needs_no_vocabulary_and_judges_what_the_run_would_refuse(tiny_model: Path, tmp_path: Path) -> None:
    model = ModelConfig(path=tiny_model, vocabulary=tmp_path / "gone.txt")
    loss = LossConfig(pixel_weight=0.0, diffusion_weight=0.0, efficientnet_weight=1.0)
    config = TrainRunConfig(model=model, loss=loss, data=DataConfig(crop_size=64), train=TrainConfig(batch_size=2))
    assert "in all" in plan_run(config)
    for name, index in (("degradation_free_images", 2), ("degradation_free_latents", -6)):
        with pytest.raises(InputError, match=rf"^loss\.{name}=\[{index}\] is not all in .*; use null for all\.$"):
            plan_run(replace(config, loss=replace(loss, **{name: (index,)})))


def test_a_base_becomes_a_system_that_trains_as_the_paper_does(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

    parts = components()
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    saved = {"unet": unet, "vae": vae, "text_encoder": parts.text_encoder, "scheduler": scheduler}
    for name, part in {**saved, "tokenizer": parts.tokenizer}.items():
        part.save_pretrained(tmp_path / name)
    model = ModelConfig(base=str(tmp_path), conditioning_channels=(4, 4, 8, 8))
    built = build_from_base(model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(unet.down_blocks.parameters(), built.unet.down_blocks.parameters(), strict=True)
    )
    last = [block.conditional_attentions[0].proj_out.weight for block in built.unet.up_blocks]
    assert not any(weight.any() for weight in last)
    at_random = build_from_base(replace(model, zero_init=False)).unet
    assert at_random.up_blocks[0].conditional_attentions[0].proj_out.weight.any()
    assert built.scheduler.config.prediction_type == "epsilon"
    snr = build_from_base(replace(model, prediction_type="v_prediction", zero_terminal_snr=True)).scheduler
    assert snr.alphas_cumprod[-1] < 1e-6
    with pytest.raises(InputError, match="noise alone"):
        build_from_base(replace(model, zero_terminal_snr=True))

    config = TrainRunConfig(model=model)
    loss = LossConfig(one_step_fraction=0.0)
    choose_parts(built, replace(config.parts, train=("controlnet", "conditional_attentions")), loss, seed=0)
    value = XPSRLoss(built, loss, None)(batch(built), generator_for(0)).total()
    value.backward()
    assert torch.isfinite(value)
    with_gradient = {n for n, p in built.trainable().named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in built.trainable().named_parameters() if p.requires_grad}
    with pytest.raises(InputError, match="one step"):
        XPSRLoss(built, LossConfig(), None)
