"""What `xpsr train` is told besides model and data, and all of it together."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from xpsr.config.checks import PROBABILITY, SEED, Checked, check_multiple, fault, option, within
from xpsr.config.data import DataConfig
from xpsr.config.model import BASE_STRIDE, MINI_STRIDE, ModelConfig

__all__ = [
    "GRID_PERIODS",
    "AblateConfig",
    "LossConfig",
    "OptimizerConfig",
    "PartName",
    "PartsConfig",
    "TrainConfig",
    "TrainRunConfig",
    "ValidationConfig",
]

GRID_PERIODS = 8
"""Of a grid, that the window is wide in which it is looked for."""

_SMALLEST_FEATURES = 16  # of which VGG's leave one
_WEIGHT = within(0, 1e6, "0 to leave it out")
_STEPS = within(1, 10**9, "1 or more")
_INDEX = within(-100, 100, "null for all")


PartName: TypeAlias = Literal[
    "everything",
    "controlnet",
    "conditional_attentions",
    "unet",
    "text_encoder",
    "refiner",
    "vae_decoder",
    "unet_lora",
    "controlnet_lora",
]


@dataclass(frozen=True, kw_only=True)
class PartsConfig(Checked):
    """Which parameters are trained, by name, and adapters (LoRA) on those that are not."""

    train: tuple[PartName, ...] = option(("everything",), "Names of parts; everything stands alone.")
    lora_rank: int = option(16, "Rank of the adapters.", within(1, 1024, "4 to 64"))
    lora_alpha: int = option(16, "What adapters add is scaled by lora_alpha / lora_rank.", within(1, 2**16))
    lora_targets: tuple[str, ...] = option(
        ("to_q", "to_k", "to_v", "to_out.0"), "Ends of the names of layers that get adapters."
    )

    def __post_init__(self) -> None:
        """Refuses names that do not go together."""
        super().__post_init__()
        if not self.train or ("everything" in self.train and len(self.train) > 1):
            raise fault(self, "train", "names nothing or too much", "use everything, or parts")
        for part in ("unet", "controlnet"):
            if {part, f"{part}_lora"} <= set(self.train):
                raise fault(self, "train", f"trains {part} and an adapter on it", "leave one of them out")


@dataclass(frozen=True, kw_only=True)
class LossConfig(Checked):
    """What a batch is asked for. `one_step_fraction` of its rows learn the single step, the others diffusion."""

    one_step_fraction: float = option(0.5, "Of the rows, how many learn the one step.", PROBABILITY)
    one_step_start: Literal["lr", "noised"] = option(
        "lr", "From the LR latents as they are, or noised to the step's timestep."
    )
    diffusion_weight: float = option(1.0, "Of the diffusion rows' squared error.", _WEIGHT)
    min_snr_gamma: float | None = option(
        None,
        "Weighs timesteps as Min-SNR (Hang et al. 2023) does, 5 is usual; null: all the same.",
        within(0, 1e6, "5, as usual", open_at="low"),
    )
    degradation_free_weight: float = option(
        0.05, "Of the Degradation-Free Constraint: the sum over all its terms, as the reference has it.", _WEIGHT
    )
    degradation_free_image_weight: float = option(1.0, "Factor of its terms that compare pictures.", _WEIGHT)
    degradation_free_latent_weight: float = option(1.0, "Factor of those that compare latents.", _WEIGHT)
    degradation_free_images: tuple[int, ...] | None = option(
        None, "Which pictures, the largest is 0; null: all.", _INDEX
    )
    degradation_free_latents: tuple[int, ...] | None = option(
        None, "Which residuals, the middle block's is the last (-1); null: all.", _INDEX
    )
    pixel_weight: float = option(2.0, "Of the one step's mean absolute error.", _WEIGHT)
    teacher_weight: float = option(
        0.0, "Of its mean absolute error against the teacher's pictures, of stored pairs that have one.", _WEIGHT
    )
    efficientnet_weight: float = option(0.0, "Of its distance in the features of EfficientNet-Lite0.", _WEIGHT)
    vgg_weight: float = option(0.0, "Of its distance in those of VGG16, which needs another package.", _WEIGHT)
    teacher_features: float = option(
        0.0,
        "Probability that features are compared with the teacher's picture, where there is one, not with HR.",
        PROBABILITY,
    )
    feature_crop: int = option(64, "Side in pixels of the window that these look at.", within(_SMALLEST_FEATURES, 8192))
    grid_weight: float = option(
        0.0, "Of how much more or less the grid of latents stands out in it than in the clean picture.", _WEIGHT
    )
    flat_weight: float = option(
        0.0, "Of its fine detail where the teacher's picture, or else the clean one, has next to none.", _WEIGHT
    )
    adversarial_weight: float = option(0.0, "Of what an adversary makes of these features of its pictures.", _WEIGHT)
    adversary_rate: float = option(
        1.0,
        "The adversary's learning rate over that of the networks.",
        within(0, 1000, "5, for example", open_at="low"),
    )
    adversary_content: float = option(
        0.0,
        "Of its telling clean pictures with another's content text from those with their own; 0: it reads none.",
        _WEIGHT,
    )
    adversarial_ramp_steps: int = option(
        300,
        "Steps over which adversarial_weight rises from 0.",
        within(0, 10**9, "0 for the whole weight from the start"),
    )
    shift_probability: float = option(
        0.0, "That a batch lies half a latent pixel further, as with num_shifts=2.", PROBABILITY
    )
    content_dropout: float = option(0.15, "Probability that a row's content text is left empty.", PROBABILITY)
    quality_dropout: float = option(0.15, "Probability that a row's quality text is left empty.", PROBABILITY)

    def __post_init__(self) -> None:
        """Refuses numbers out of range, and weights of which nothing is learned."""
        super().__post_init__()
        looking = [
            name
            for name in (
                "teacher_weight",
                "efficientnet_weight",
                "vgg_weight",
                "grid_weight",
                "flat_weight",
                "adversarial_weight",
            )
            if getattr(self, name)
        ]
        if looking and not self.one_step_fraction:
            message = f"is one step that no row takes, but {' and '.join(looking)} look at it"
            raise fault(self, "one_step_fraction", message, "use a number above 0")
        if self.adversarial_weight and not self.feature_weights:
            message = "is of an adversary that has no features to look at"
            raise fault(self, "adversarial_weight", message, "set efficientnet_weight, to 0.7 for example, too")
        if self.adversary_content and not self.adversarial_weight:
            message = "is of an adversary that there is not"
            raise fault(self, "adversary_content", message, "set adversarial_weight, to 0.1 for example, too")
        if self.degradation_free_weight and self.degradation_free_images == () == self.degradation_free_latents:
            message = "is nothing to compare, and so is degradation_free_latents"
            raise fault(self, "degradation_free_images", message, "use degradation_free_weight=0 instead")
        if not self.degradation_free_weight and not (
            (self.diffusion_weight and self.one_step_fraction < 1)
            or ((looking or self.pixel_weight) and self.one_step_fraction)
        ):
            message = "is the weight of a loss of which no term is left to learn from"
            raise fault(self, "diffusion_weight", message, "use 1, or another weight above 0")

    @property
    def feature_weights(self) -> dict[str, float]:
        """Weights of the networks whose features are looked at, by name."""
        weights = {"efficientnet": self.efficientnet_weight, "vgg": self.vgg_weight}
        return {name: weight for name, weight in weights.items() if weight}


@dataclass(frozen=True, kw_only=True)
class AblateConfig(Checked):
    """What is taken away, to see what it was good for."""

    content: bool = option(False, "The content text is always empty.")
    quality: bool = option(False, "The quality text is always empty.")
    semantic_fusion: bool = option(False, "One attention reads both texts instead of Semantic-Fusion Attention.")
    degradation_free: bool = option(False, "No Degradation-Free Constraint.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Checked):
    """AdamW with a linear warm-up and then a schedule down to `final_learning_rate`."""

    kind: Literal["adamw", "torchao_8bit", "bitsandbytes_8bit"] = option(
        "adamw", "AdamW in float32, or with moments of a byte each."
    )
    learning_rate: float = option(5e-4, "The highest, after the warm-up.", within(0, 1, "5e-5 to 5e-4"))
    final_learning_rate: float = option(5e-5, "What the schedule ends at; constant never reaches it.", within(0, 1))
    schedule: Literal["cosine", "linear", "constant"] = option("cosine", "How it falls after the warm-up.")
    warmup_steps: int = option(200, "Steps over which it rises from 0.", within(0, 10**9, "0 for none"))
    betas: tuple[float, float] = option((0.9, 0.99), "AdamW's, each below 1.", within(0, 1, open_at="high"))
    weight_decay: float = option(0.01, "AdamW's.", within(0, 1000, "0 for none"))
    max_grad_norm: float = option(
        1.0, "Longer gradients are shortened to this.", within(0, 1e6, "1, as usual", open_at="low")
    )
    ema_decay: float = option(
        0.998,
        "Of the averaged weights, which are what is written; 0: no average is kept, and the last weights are written.",
        within(0, 1, "0.999, as usual", open_at="high"),
    )


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Checked):
    """Pictures that are restored with the averaged weights now and then, and scored."""

    every: int | None = option(None, "Steps between two validations; null: never.", within(1, 10**9, "null for never"))
    hr_dir: Path | None = option(None, "The clean pictures.")
    lr_dir: Path | None = option(
        None, "Degraded pictures of the same names; null: HR reduced bicubically by data.scale."
    )
    priors: Path | None = option(None, "Their texts, as xpsr describe writes them; null: empty texts.")
    max_pictures: int = option(8, "The first so many by name.", within(1, 10**6))
    best_by: Literal["psnr_y", "ssim_y", "niqe"] = option("psnr_y", "Which score decides what is kept as the best.")

    def __post_init__(self) -> None:
        """Refuses numbers out of range, and validation of nothing."""
        super().__post_init__()
        if self.every is not None and self.hr_dir is None:
            raise fault(self, "hr_dir", f"holds no pictures for every={self.every}", "use a folder, or every=null")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """How long, how often, on what and where to."""

    output_dir: Path = option(Path("runs/mini"), "Where checkpoints, metrics and the model go.")
    max_steps: int = option(1000, "Updates in all, counted from the very first start.", _STEPS)
    max_minutes: float | None = option(
        None,
        "Checkpoint and stop before this is over, the next start goes on; null: no limit.",
        within(0, 1e7, "null for no limit", open_at="low"),
    )
    batch_size: int = option(16, "Samples at once, in each process.", within(1, 4096, "1 or more"))
    gradient_accumulation_steps: int = option(
        1, "Passes per update, which sees batch_size * this * processes samples.", within(1, 10**5, "1 or more")
    )
    fit_memory: bool = option(False, "On a GPU: divide batch_size, with as many more passes, until it fits.")
    seed: int = option(0, "All randomness follows from it.", SEED)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "What is computed in, auto: what is fast there; weights are kept in float32."
    )
    parallel: Literal["ddp", "fsdp"] = option("ddp", "Of several processes: whole copies, or shards (FSDP2).")
    gradient_checkpointing: bool = option(
        False, "Compute activations again in the backward pass: less memory, a third slower."
    )
    compile: bool = option(False, "torch.compile of both networks; pays on a GPU.")
    checkpoint_every: int = option(200, "Steps between two checkpoints.", _STEPS)
    keep_checkpoints: int = option(2, "How many of the newest stay.", within(1, 1000, "1 or more"))
    log_every: int = option(10, "Steps between two lines of metrics.jsonl.", _STEPS)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] | None = option(
        None, "What else metrics go to; null: tensorboard if installed."
    )
    cache_dir: Path | None = option(
        None, "Keeps latents and text embeddings of frozen encoders, for crops that come again; null: nowhere."
    )
    num_workers: int = option(0, "Processes that read ahead; 0: none.", within(0, 256, "0 for none"))
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps ...")
    resume: Literal["auto", "never"] = option(
        "auto", "auto goes on where a run in output_dir stopped; never starts afresh and removes its checkpoints."
    )


@dataclass(frozen=True, kw_only=True)
class TrainRunConfig(Checked):
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
        super().__post_init__()
        model, loss, size = self.model, self.effective_loss, self.data.crop_size
        stride = MINI_STRIDE if model.base is None else BASE_STRIDE  # of a folder the least that it may be
        check_multiple(self, "data.crop_size", stride, " pixels, those of a latent pixel")
        if loss.feature_weights and loss.feature_crop > size:
            raise fault(self, "loss.feature_crop", f"is more than data.crop_size={size}", f"use {size}")
        lost = stride if loss.shift_probability else 0
        looked_at = [(stride, "loss.shift_probability, which cuts a latent pixel off")]
        if loss.grid_weight:
            looked_at.append((GRID_PERIODS * stride, "loss.grid_weight"))
        smallest, reason = max(looked_at)
        if size < smallest + lost:
            raise fault(self, "data.crop_size", f"is too small for {reason}", f"use {smallest + lost} or more")
        if loss.teacher_weight and self.data.pairs is None and not self.data.shards:
            message = "looks at pictures of a teacher, which only stored pairs have"
            raise fault(self, "loss.teacher_weight", message, "use 0, or data.pairs")
        self._check_heads()
        if self.train.parallel == "fsdp" and self.optimizer.kind != "adamw":
            raise fault(self, "optimizer.kind", "cannot be sharded", "use adamw, or train.parallel=ddp")
        if self.train.parallel == "fsdp" and self.train.fit_memory:
            message = "tries on each GPU by itself, which shards cannot"
            raise fault(self, "train.fit_memory", message, "use false, or train.parallel=ddp")
        if loss.one_step_fraction and model.path is None and model.one_step_timestep is None:
            message = f"is no label for the one step of loss.one_step_fraction={loss.one_step_fraction:g}"
            raise fault(self, "model.one_step_timestep", message, "use 250, for example")
        if loss.one_step_fraction and loss.one_step_start == "noised" and model.one_step_timestep == 0:
            message = "is no noise for loss.one_step_start=noised"
            raise fault(self, "model.one_step_timestep", message, "use 250, say")
        if loss.one_step_fraction and loss.one_step_start == "noised" and model.is_residual:
            message = "would add to noise with loss.one_step_start=noised"
            raise fault(self, "model.one_step_residual", message, "use false")

    def _check_heads(self) -> None:
        """Refuses pictures and residuals of the Degradation-Free Constraint that a new model does not have."""
        model, loss = self.model, self.loss
        counts: dict[str, int] = {}
        if model.path is None:
            counts["degradation_free_images"] = len(model.conditioning_channels) - 1
        if model.is_new:
            depth = len(model.block_out_channels)
            counts["degradation_free_latents"] = depth * (model.layers_per_block + 1) + 1
        for name, count in counts.items():
            if any(not -count <= index < count for index in getattr(loss, name) or ()):
                message = f"is not all in [{-count}, {count - 1}], of the {count} that this model has"
                raise fault(self, f"loss.{name}", message, "use null for all", code="out_of_range")

    @property
    def effective_loss(self) -> LossConfig:
        """`loss` without what `ablate` takes away."""
        changes: dict[str, float] = {}
        changes |= {"content_dropout": 1.0} if self.ablate.content else {}
        changes |= {"quality_dropout": 1.0} if self.ablate.quality else {}
        changes |= {"degradation_free_weight": 0.0} if self.ablate.degradation_free else {}
        return dataclasses.replace(self.loss, **changes)  # type: ignore[arg-type]
