"""Runs as values: frozen, keyword-only dataclasses, filled from defaults, then YAML, then dotted flags.

Nothing here imports torch, so that `xpsr --help` answers at once. Configs stop at `cli`, `training` and `batch`;
everything below them takes named arguments.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from xpsr.errors import InputError

__all__ = [
    "AblateConfig",
    "DEGRADATIONS",
    "DataConfig",
    "DegradationConfig",
    "DegradationName",
    "DegradationStage",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PRESETS",
    "PairsConfig",
    "PartName",
    "PartsConfig",
    "PresetName",
    "Settings",
    "TrainConfig",
    "TrainRunConfig",
    "UpscaleConfig",
    "ValidationConfig",
    "as_dict",
    "load_config",
    "suggest",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a picture is restored. The defaults are the preset `default`, for models of Stable Diffusion's kind.

    Lengths are in latent pixels unless said otherwise; timesteps are those of training, usually 0 to 999.
    """

    num_inference_steps: int = 20
    """Denoising steps; 1 is the one step, of a model that has learned it."""
    guidance_scale: float = 4.5
    """How strongly texts are followed; above 1 every step costs twice."""
    controlnet_conditioning_scale: float = 1.0
    """Factor of the ControlNet's residuals."""
    strength: float = 1.0
    """Where to start, as a fraction of the training timesteps; 0 (one step only) is the LR latents as they are."""
    start: Literal["lr", "noise"] = "lr"
    """From the noised LR latents, or (strength 1 only) from noise alone."""
    added_noise_level: int = 0
    """Timestep at which the LR latents are noised once more, as the reference does (800); 0: they are not."""
    offset_noise_scale: float = 0.0
    """Weight of noise that is the same in all of a channel, added to start="noise"; there for parity."""
    tile_size: int = 128
    """Larger pictures are denoised in square tiles of this side."""
    tile_overlap: int = 32
    tile_weights: Literal["symmetric", "reference"] = "symmetric"
    """The reference's lie half a pixel low, and its tiles are no larger than the picture's smaller side."""
    num_shifts: int = 1
    """The one step is taken on so many grids, each shifted against the last, and averaged (cycle spinning, Coifman and
    Donoho 1995), which hides the grid."""
    fit: Literal["pad", "stretch"] = "pad"
    """To the model's multiple of pixels: by reflection, cropped off again, or as the reference does by resizing (in 8
    bits)."""
    min_size: int = 512
    """Pixels that the smaller side has at least while the model works; the result is reduced again."""
    color_match: Literal["none", "adain", "wavelet"] = "adain"
    """How colours are brought back to those of the input."""
    content_suffix: str = "clean, high-resolution, 8k, high quality, clear text."
    """Said after every content text."""
    reserve_suffix: bool = True
    """Content texts that are cut leave room for the suffix; the reference cuts the suffix."""
    long_texts: Literal["chunk", "cut"] = "chunk"
    """What is longer than the text encoder's places is embedded in further chunks, or cut off as the reference does."""
    negative_content: str = "blurry, dotted, noise, raster lines, unclear, lowres, over-smoothed."
    """What guidance leads away from."""
    negative_quality: str = "high resolution, best quality, clear"


PresetName: TypeAlias = Literal["default", "paper", "reference"]

PRESETS: dict[PresetName, Settings] = {
    "default": Settings(),
    # Guidance and negative text as the paper has them
    "paper": Settings(guidance_scale=5.5, negative_content="blurry, dotted, noise, unclear, lowres, over-smoothed"),
    # What the authors' test script does
    "reference": Settings(
        added_noise_level=800,
        tile_size=320,
        tile_overlap=8,
        tile_weights="reference",
        fit="stretch",
        reserve_suffix=False,
        long_texts="cut",
    ),
}


# Up here because defaults below are made, and so checked, while this module loads
def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name}={value:g} is not in [0, 1]; use 0 for never and 1 for always.")


def _check_weights(name: str, values: Sequence[float]) -> None:
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise InputError(
            f"{name}={list(values)} are not all at least 0 with one above; use weights, such as 1 for each."
        )


def _check_range(
    name: str, values: tuple[float, float], lowest: float, highest: float, *, holds: float | None = None
) -> None:
    low, high = values
    if not lowest <= low <= high <= highest:
        raise InputError(
            f"{name}={list(values)} is not from low to high within [{lowest}, {highest}]; correct the two."
        )
    if holds is not None and not low <= holds <= high:
        raise InputError(f"{name}={list(values)} does not hold {holds:g}; use a lower and a higher number than that.")


@dataclass(frozen=True, kw_only=True)
class DegradationStage:
    """One of the two stages of the second-order degradation; pixel values below are on the 0..255 scale."""

    blur_probability: float = 1.0
    blur_sigma: tuple[float, float] = (0.2, 3.0)  # standard deviation, pixels
    resize_probabilities: tuple[float, float, float] = (0.2, 0.7, 0.1)  # up, down, keep
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_noise_probability: float = 0.5  # else Poisson
    gaussian_noise: tuple[float, float] = (1.0, 30.0)  # standard deviation
    poisson_noise: tuple[float, float] = (0.05, 3.0)  # scale
    gray_noise_probability: float = 0.4
    jpeg_quality: tuple[int, int] = (30, 95)

    def __post_init__(self) -> None:
        """Refuses ranges and probabilities that cannot be drawn from."""
        for name in ("blur_probability", "gaussian_noise_probability", "gray_noise_probability"):
            _check_probability(name, getattr(self, name))
        _check_weights("resize_probabilities", self.resize_probabilities)
        _check_range("blur_sigma", self.blur_sigma, 0.01, 100.0)
        _check_range("resize_range", self.resize_range, 0.01, 16.0, holds=1.0)
        _check_range("gaussian_noise", self.gaussian_noise, 0.0, 255.0)
        _check_range("poisson_noise", self.poisson_noise, 0.0, 100.0)
        _check_range("jpeg_quality", self.jpeg_quality, 1, 100)


@dataclass(frozen=True, kw_only=True)
class DegradationConfig:
    """The second-order degradation of Real-ESRGAN as XPSR uses it; the defaults are those of XPSR's training pairs."""

    plain_probability: float = 0.0  # only an area reduction, nothing else
    second_stage_probability: float = 1.0
    kernel_probabilities: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    generalized_beta: tuple[float, float] = (0.5, 4.0)
    plateau_beta: tuple[float, float] = (1.0, 2.0)
    sinc_probability: float = 0.1
    final_sinc_probability: float = 0.8
    kernel_sizes: tuple[int, int] = (7, 21)  # odd sizes from .. to
    first: DegradationStage = DegradationStage()
    second: DegradationStage = DegradationStage(
        blur_probability=0.8,
        blur_sigma=(0.2, 1.5),
        resize_probabilities=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        gaussian_noise=(1.0, 25.0),
        poisson_noise=(0.05, 2.5),
    )

    def __post_init__(self) -> None:
        """Refuses ranges and probabilities that cannot be drawn from."""
        for name in ("plain_probability", "second_stage_probability", "sinc_probability", "final_sinc_probability"):
            _check_probability(name, getattr(self, name))
        _check_weights("kernel_probabilities", self.kernel_probabilities)
        _check_range("generalized_beta", self.generalized_beta, 0.1, 20.0, holds=1.0)
        _check_range("plateau_beta", self.plateau_beta, 0.1, 20.0, holds=1.0)
        _check_range("kernel_sizes", self.kernel_sizes, 1, 99)
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise InputError(f"kernel_sizes={list(self.kernel_sizes)} are not odd; use [7, 21], for example.")


DegradationName: TypeAlias = Literal["xpsr", "realesrgan"]

DEGRADATIONS: dict[DegradationName, DegradationConfig] = {
    # What made the authors' training pairs (make_train)
    "xpsr": DegradationConfig(),
    # Real-ESRGAN's, as the authors' params_realesrgan.yml has it
    "realesrgan": DegradationConfig(
        first=DegradationStage(
            resize_range=(0.3, 1.5),
            gaussian_noise=(1.0, 15.0),
            poisson_noise=(0.05, 2.0),
            jpeg_quality=(60, 95),
        ),
        second=DegradationStage(
            blur_probability=0.5,
            blur_sigma=(0.2, 1.5),
            resize_probabilities=(0.3, 0.4, 0.3),
            resize_range=(0.6, 1.2),
            gaussian_noise=(1.0, 12.0),
            poisson_noise=(0.05, 1.0),
            jpeg_quality=(60, 100),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pictures are and how a training crop is cut from them.

    Pictures of `hr_dir` are degraded anew in every sample, unless `pairs` or `shards` names pairs that were stored.
    """

    hr_dir: Path = Path("photos")
    manifest: Path | None = None
    """Tab-separated columns package, file, label, or a .jsonl of {"image", "content"}; None: all pictures in hr_dir."""
    pairs: Path | None = None  # a folder with hr/, lr/ and maybe manifest.jsonl, as xpsr degrade makes it
    shards: tuple[str, ...] = ()  # folders, tars, or addresses of an index.json
    shard_cache: Path | None = None  # where shards from elsewhere are kept; None: below the user's cache
    priors: Path | None = None
    """JSONL of {"image", "content", "quality"}, images relative to its folder or to hr_dir, or known by "sha256"; goes
    before labels."""
    require_priors: bool = False  # a picture without one is an error, not a warning
    quality_from: Literal["auto", "degradation", "prior"] = "auto"
    """Where the quality text comes from; auto: a stored pair's prior, or else the parameters that were drawn."""
    exclude: tuple[str, ...] = ()  # file names or patterns (White-*) that are kept out of training
    crop_size: int = 128
    scale: int = 4
    min_size: int = 16  # pictures with a shorter side are passed over
    crop_scales: tuple[float, ...] = (1.0, 0.75, 0.5)  # a crop is cut from the picture reduced by one of these
    min_detail: float = 0.0  # crops whose mean absolute Laplacian (of 0..255) is lower are flat
    flat_crop_probability: float = 0.25  # that a flat crop is taken all the same
    clean_condition_probability: float = 0.0  # that the condition is the clean picture, with its own quality text
    kept_fault_probability: float = 0.0
    """That a crop is made blurry or grainy *before* it is degraded, where the degradation adds no such fault itself:
    the quality text does not name it and the target keeps it, so that the text decides what is a fault."""
    wrong_level_probability: float = 0.0  # that a level in the quality text is one off, as a describer may be
    degradation: DegradationConfig = DegradationConfig()


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """How `xpsr degrade` makes pairs of pictures."""

    seed: int = 0
    num_per_image: int = 1
    crop_size: int | None = None  # None: the whole picture, its sides cut to a multiple of the scale
    scale: int = 4
    min_size: int = 16  # pictures with a shorter side are passed over
    min_detail: float = 0.0  # crops whose mean absolute Laplacian (of 0..255) is lower are drawn again
    sharpen: bool = False  # the clean picture, as XPSR's authors do
    shard_size: int | None = None  # pairs in a tar; None: PNGs in folders
    degradation: DegradationConfig = DegradationConfig()

    def __post_init__(self) -> None:
        """Refuses what cannot be made."""
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed={self.seed} is not in [0, {2**63 - 1}]; use 0, for example.")
        if self.num_per_image < 1:
            raise InputError(f"num_per_image={self.num_per_image} makes no pairs; use 1 or more.")
        if self.crop_size is not None and (self.crop_size < self.scale or self.crop_size % self.scale):
            nearest = max(round(self.crop_size / self.scale), 1) * self.scale
            raise InputError(f"crop_size={self.crop_size} is not a multiple of {self.scale}; use {nearest}.")
        if self.min_size < self.scale:
            raise InputError(f"min_size={self.min_size} leaves no LR pixel; use {self.scale} or more.")
        if self.shard_size is not None and self.shard_size < self.num_per_image:
            raise InputError(
                f"shard_size={self.shard_size} is less than num_per_image; use {self.num_per_image} or more."
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model that is trained: a folder to go on from, a Stable Diffusion to build on, or the sizes of a new one.

    With `path`, the folder's own sizes and defaults hold; with `base`, the sizes of its UNet. Else the mini's kind is
    built, by default with the mini's sizes. `prediction_type` and `zero_terminal_snr` count everywhere.
    """

    path: Path | None = None
    base: str | None = None  # a folder of Stable Diffusion 1.5's kind, or its name on the hub
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None  # None: the model's; v for a new one
    zero_terminal_snr: bool | None = None  # rescale the betas so that t=999 is noise alone; None: as above, true
    zero_init: bool = True  # with base: conditional attentions start at zero; the reference starts them at random
    block_out_channels: tuple[int, ...] = (64, 96, 160)
    num_attention_heads: tuple[int, ...] = (1, 2, 2)
    layers_per_block: int = 1
    norm_num_groups: int = 16
    conditional_attention_window: int | None = 8
    conditioning_channels: tuple[int, ...] = (16, 32, 64)
    text_width: int = 64
    text_layers: int = 2
    vocabulary: Path = Path("data/vocabulary.txt")
    vocabulary_size: int = 2048
    refiner_channels: int = 16
    refiner_layers: int = 2
    one_step_timestep: int | None = 250  # None: a model without the one step
    settings: Settings = Settings(  # what its folder tells a pipeline to do unless it is told otherwise
        num_inference_steps=1,
        guidance_scale=1.0,
        strength=0.1,
        tile_size=144,  # a 128 x 128 picture on a shifted grid fits
        tile_overlap=16,
        num_shifts=2,
        color_match="none",
        min_size=0,
        content_suffix="",
        negative_content="",
        negative_quality="",
    )


PartName: TypeAlias = Literal[
    "everything",
    "controlnet",
    "conditional_attentions",
    "unet",
    "text_encoder",
    "refiner",
    "unet_lora",
    "controlnet_lora",
]


@dataclass(frozen=True, kw_only=True)
class PartsConfig:
    """Which parameters are trained, by name, and adapters (LoRA) on those that are not."""

    train: tuple[PartName, ...] = ("everything",)
    lora_rank: int = 16
    lora_alpha: int = 16
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")  # ends of the names of layers

    def __post_init__(self) -> None:
        if not self.train or ("everything" in self.train and len(self.train) > 1):
            raise InputError(f"parts.train={list(self.train)} names nothing or too much; use everything, or parts.")
        for part in ("unet", "controlnet"):
            if {part, f"{part}_lora"} <= set(self.train):
                raise InputError(f"parts.train trains {part} and an adapter on it; leave one of them out.")
        if self.lora_rank < 1:
            raise InputError(f"parts.lora_rank={self.lora_rank} is less than one; use 4 to 64.")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a batch is asked for. `one_step_fraction` of its rows learn the single step, the others diffusion."""

    one_step_fraction: float = 0.5
    one_step_start: Literal["lr", "noised"] = "lr"  # from the LR latents as they are, or noised to the step's timestep
    diffusion_weight: float = 1.0
    min_snr_gamma: float | None = None  # weighs timesteps as Min-SNR (Hang et al. 2023) does; 5 is usual
    degradation_free_weight: float = 0.05  # of the sum over all terms, as the reference has it
    degradation_free_image_weight: float = 1.0  # factor of the terms that compare pictures
    degradation_free_latent_weight: float = 1.0  # factor of those that compare latents
    degradation_free_images: tuple[int, ...] | None = None  # which pictures, the largest is 0; None: all
    degradation_free_latents: tuple[int, ...] | None = None  # which residuals, the middle block's is the last (-1)
    pixel_weight: float = 2.0
    feature_weight: float = 0.0
    feature_network: Literal["efficientnet", "vgg"] = "efficientnet"  # vgg needs another package
    feature_crop: int = 64
    adversarial_weight: float = 0.0
    adversarial_ramp_steps: int = 300
    shift_probability: float = 0.0  # that a batch lies half a latent pixel further, as with num_shifts=2
    content_dropout: float = 0.15  # probability that a row's content text is left empty
    quality_dropout: float = 0.15

    def __post_init__(self) -> None:
        for name in ("one_step_fraction", "shift_probability", "content_dropout", "quality_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"loss.{name}={getattr(self, name)} is not in [0, 1].")
        if not self.one_step_fraction and (self.feature_weight or self.adversarial_weight):
            raise InputError(
                "loss.feature_weight and loss.adversarial_weight look at the one step, which no row takes; set"
                " loss.one_step_fraction above 0."
            )
        if self.min_snr_gamma is not None and self.min_snr_gamma <= 0:
            raise InputError(f"loss.min_snr_gamma={self.min_snr_gamma:g} is not above 0; 5 is usual.")


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """What is taken away, to see what it was good for."""

    content: bool = False  # the content text is always empty
    quality: bool = False  # the quality text is always empty
    semantic_fusion: bool = False  # one attention reads both texts instead of Semantic-Fusion Attention
    degradation_free: bool = False  # no Degradation-Free Constraint


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and then a schedule down to `final_learning_rate`."""

    kind: Literal["adamw", "torchao_8bit", "bitsandbytes_8bit"] = "adamw"
    learning_rate: float = 5e-4
    final_learning_rate: float = 5e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.998  # 0: no average is kept, and the last weights are written

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"optimizer.ema_decay={self.ema_decay:g} is not in [0, 1); 0.999 is usual.")
        if self.max_grad_norm <= 0:
            raise InputError(f"optimizer.max_grad_norm={self.max_grad_norm:g} is not above 0; 1 is usual.")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Pictures that are restored with the averaged weights now and then, and scored."""

    every: int | None = None  # steps; None: never
    hr_dir: Path | None = None
    lr_dir: Path | None = None  # pictures of the same names; None: HR reduced bicubically by data.scale
    priors: Path | None = None  # their texts, as `xpsr describe` writes them; None: empty texts
    max_pictures: int = 8
    best_by: Literal["psnr_y", "ssim_y", "niqe"] = "psnr_y"  # which checkpoint is kept as the best

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InputError(f"validation.every={self.every} is less than one; leave it out for never.")
        if self.every is not None and self.hr_dir is None:
            raise InputError("validation.every needs pictures; set validation.hr_dir.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how often, on what and where to."""

    output_dir: Path = Path("runs/mini")
    max_steps: int = 1000
    max_minutes: float | None = None  # checkpoint and stop before this is over; the next start goes on
    batch_size: int = 16  # samples at once, in each process
    gradient_accumulation_steps: int = 1  # passes per update: an update sees batch_size * this * processes samples
    fit_memory: bool = False  # on a GPU: halve batch_size (and double the passes) until it fits
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    parallel: Literal["ddp", "fsdp"] = "ddp"  # of several processes: whole copies, or shards (FSDP2)
    gradient_checkpointing: bool = False  # compute activations again in the backward pass: less memory, a third slower
    compile: bool = False  # torch.compile of both networks; pays on a GPU
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    log_every: int = 10
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] | None = None  # None: tensorboard if installed
    cache_dir: Path | None = None  # keeps latents and text embeddings of frozen encoders; for pictures seen again
    num_workers: int = 0
    device: str = "auto"
    resume: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}={getattr(self, name)} is less than one.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"train.seed={self.seed} is not in [0, {2**63 - 1}]; use 0, for example.")


@dataclass(frozen=True, kw_only=True)
class TrainRunConfig:
    """Everything that `xpsr train` is told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ablate: AblateConfig = field(default_factory=AblateConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        """Refuses what does not go together, whatever the machine."""
        model, loss, size = self.model, self.loss, self.data.crop_size
        if model.path is not None and model.base is not None:
            raise InputError("model.path goes on with a model, model.base builds a new one; leave one of them out.")
        if model.prediction_type == "epsilon" and model.zero_terminal_snr:
            raise InputError(
                "model.zero_terminal_snr leaves nothing to predict noise from at the last timestep; use"
                " model.prediction_type=v_prediction."
            )
        if loss.feature_weight and loss.feature_crop > size:
            raise InputError(f"loss.feature_crop={loss.feature_crop} is more than data.crop_size={size}; use {size}.")
        if self.train.parallel == "fsdp" and self.optimizer.kind != "adamw":
            raise InputError(
                f"optimizer.kind={self.optimizer.kind} cannot be sharded; use adamw, or train.parallel=ddp."
            )
        if self.train.parallel == "fsdp" and self.train.fit_memory:
            raise InputError("train.fit_memory tries on each GPU by itself, which shards cannot; use parallel=ddp.")
        if loss.one_step_fraction and model.path is None and model.one_step_timestep is None:
            raise InputError("loss.one_step_fraction needs model.one_step_timestep; set it, such as 250.")

    @property
    def effective_loss(self) -> LossConfig:
        """`loss` without what `ablate` takes away."""
        changes: dict[str, float] = {}
        changes |= {"content_dropout": 1.0} if self.ablate.content else {}
        changes |= {"quality_dropout": 1.0} if self.ablate.quality else {}
        changes |= {"degradation_free_weight": 0.0} if self.ablate.degradation_free else {}
        return dataclasses.replace(self.loss, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class UpscaleConfig:
    """How `xpsr upscale` restores. What is None is what `preset` says, or else the model's own default.

    The first part are `Settings`; they say what each one means.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    controlnet_conditioning_scale: float | None = None
    strength: float | None = None
    start: Literal["lr", "noise"] | None = None
    added_noise_level: int | None = None
    offset_noise_scale: float | None = None
    tile_size: int | None = None
    tile_overlap: int | None = None
    tile_weights: Literal["symmetric", "reference"] | None = None
    num_shifts: int | None = None
    fit: Literal["pad", "stretch"] | None = None
    min_size: int | None = None
    color_match: Literal["none", "adain", "wavelet"] | None = None
    content_suffix: str | None = None
    reserve_suffix: bool | None = None
    long_texts: Literal["chunk", "cut"] | None = None
    negative_content: str | None = None
    negative_quality: str | None = None

    preset: PresetName | None = None
    scale: float = 4.0
    seed: int | None = None  # None: a random one for each picture
    content: str | None = None  # None: what the describer, or the file of priors, says
    quality: str | None = None
    describer: str = "mini"  # "none", "mini", a server's address, a model's folder or its name on the hub
    priors: Path | None = None  # priors that were written before, instead of a describer
    model: str = "mini"
    device: str = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    @property
    def overrides(self) -> dict[str, Any]:
        """The `Settings` that are given here."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Settings)}
        return {name: value for name, value in values.items() if value is not None}

    def __post_init__(self) -> None:
        """Refuses what no model can do; what a certain model cannot do, its pipeline refuses."""
        if not 0 < self.scale < math.inf:
            raise InputError(f"scale={self.scale:g} does not enlarge; use a number above 0, such as 4.")
        if self.num_inference_steps is not None and self.num_inference_steps < 1:
            raise InputError(f"steps={self.num_inference_steps} is less than one; use 1 to 50.")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise InputError(f"guidance_scale={self.guidance_scale} is not finite; use 1 (no guidance) to 10.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"seed={self.seed} is not in [0, {2**63 - 1}]; use 0, for example.")


def load_config(
    kind: type[T], path: Path | None = None, overrides: Sequence[str] = (), *, default: T | None = None
) -> T:
    """Builds a config of `kind` from its defaults, then the YAML at `path`, then overrides like `--train.max_steps=5`.

    `default` is a config to start from instead.

    Raises:
        InputError: the file is missing, a key is unknown (the nearest known one is suggested) or a value does not fit.
    """
    from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

    if path is not None and not path.is_file():
        raise InputError(f"{path}: no such config file; configs/ holds the ones that come with xpsr.")
    known = _keys(kind)
    given = [option.removeprefix("--").partition("=")[0] for option in overrides if option.startswith("--")]
    if path is not None:
        given += _keys_of_yaml(path)
    for key in given:
        if key not in known:
            raise InputError(f"{path or 'config'}: '{key}' is not an option{suggest(key, known) or '.'}")
    parser = ArgumentParser(exit_on_error=False, logger=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_class_arguments(kind, None)
    if default is not None:
        parser.set_defaults(as_dict(default))
    try:
        values = parser.instantiate(
            parser.parse_args([*(["--config", str(path)] if path is not None else []), *overrides])
        )
        return kind(**{f.name: values[f.name] for f in dataclasses.fields(kind)})  # type: ignore[arg-type]
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(f"{path or 'config'}: {' '.join(str(error).split())}") from error


def _keys_of_yaml(path: Path) -> list[str]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of sections, got {type(content).__name__}.")

    def walk(node: dict[str, Any], prefix: str) -> list[str]:
        keys = []
        for key, value in node.items():
            keys.append(f"{prefix}{key}")
            if isinstance(value, dict):
                keys += walk(value, f"{prefix}{key}.")
        return keys

    return walk(content, "")


def suggest(word: str, known: Sequence[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest known word, or nothing."""
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values, to be written beside a result."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _keys(kind: type, prefix: str = "") -> list[str]:
    keys = []
    for f in dataclasses.fields(kind):
        keys.append(prefix + f.name)
        if dataclasses.is_dataclass(f.type):
            keys += _keys(f.type, f"{prefix}{f.name}.")  # type: ignore[arg-type]
    return keys
