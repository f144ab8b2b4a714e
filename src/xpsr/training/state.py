"""What a run has reached: weights, their moving average (EMA), optimizers; written whole where it is sharded, too."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from xpsr.config import TrainRunConfig
from xpsr.devices import Dtype, torch_dtype
from xpsr.features import FEATURE_NETWORKS
from xpsr.models import DeepHaarAutoencoder, HaarPackets
from xpsr.training.adversary import Adversary
from xpsr.training.cache import EncodingCache
from xpsr.training.checkpoints import read, refusal
from xpsr.training.components import Components, choose_parts
from xpsr.training.fingerprint import difference, fingerprint
from xpsr.training.losses import XPSRLoss
from xpsr.training.optimizers import build_optimizer

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["TrainState", "keeps_half"]

# Smaller frozen weights stay in float32: little to gain, and the networks' `dtype` is that of their first
_LARGE = 2**16
# What every checkpoint holds
_ENTRIES = {"step": int, "position": int, "weights": dict, "ema": dict, "optimizer": dict, "rng": list}
_SHARDED_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")


class TrainState:
    """Weights, their moving average (EMA), the optimizers, and the step and sample they have reached."""

    def __init__(self, config: TrainRunConfig, components: Components, accelerator: "Accelerator"):
        self.config, self.components, self.accelerator = config, components, accelerator
        self.step = self.position = 0
        self.saved_step: int | None = None
        self.best: float | None = None
        self.exported = True  # whether the model that was written last has these weights
        run, loss = config.train, config.effective_loss
        choose_parts(components, config.parts, loss, seed=run.seed)
        self.fingerprint = fingerprint(config, components)
        features = {name: FEATURE_NETWORKS[name]().to(accelerator.device) for name in loss.feature_weights}
        for network in features.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        cache = None if run.cache_dir is None else EncodingCache(run.cache_dir)
        residual = config.model.is_residual
        self.loss = XPSRLoss(components, loss, config.model.one_step_timestep, features, cache, residual=residual)
        self.loss.to(accelerator.device)
        self.parts = self.loss.parts
        self.parts.train()
        self._faithful = None  # the weights of a second way to decode, which stays what it is
        vae = components.vae
        if isinstance(vae, DeepHaarAutoencoder) and vae.has_fidelity:
            self._faithful = vae.faithful_weights()
        self.sharded = run.parallel == "fsdp" and accelerator.num_processes > 1
        # shards cannot be written as a model, so one process keeps whole modules to fill
        self._whole = copy.deepcopy(components) if self.sharded and accelerator.is_main_process else components
        if not self.sharded:
            if accelerator.device.type != "cpu" or not _has_norm_on_frozen_input(components):
                self.parts.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
            if run.precision != "fp32":
                self._shrink_frozen_weights()
        if run.gradient_checkpointing and loss.one_step_fraction and isinstance(components.vae, AutoencoderKL):
            components.vae.enable_gradient_checkpointing()  # the one step's gradient comes through its decoder
        for network in (components.unet, components.controlnet):
            if run.gradient_checkpointing:
                network.enable_gradient_checkpointing()
            if run.compile:
                network.compile()
        self.module: nn.Module = self.loss
        if self.sharded:
            self._shard()
        else:
            self.module = accelerator.prepare(self.loss)
        named = [(name, p) for name, p in self.parts.named_parameters() if p.requires_grad]
        self.names, self.parameters = [name for name, _ in named], [parameter for _, parameter in named]
        self.ema = [p.detach().clone() for p in self.parameters] if config.optimizer.ema_decay else []
        self.optimizer: Any = accelerator.prepare(build_optimizer(self.parameters, config.optimizer))
        widths = {name: network.widths for name, network in features.items()}
        vocabulary = components.text_encoder.config.vocab_size
        self.adversary = None
        if loss.adversarial_weight:
            self.adversary = Adversary(config, accelerator, widths, vocabulary=vocabulary)

    def _shrink_frozen_weights(self) -> None:
        """Makes large frozen weights float16, the type they are written in at last, so that nothing is lost."""
        for parameter in self.parts.parameters():
            if keeps_half(parameter):
                parameter.data = parameter.data.half()

    def _shard(self) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        # autocast computes in half precision; gathering in it halves what is sent, gradients are summed in float32
        precision = self.config.train.precision
        half = None if precision == "fp32" else torch_dtype(cast(Dtype, precision))  # auto is resolved by now
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
        for module in self.parts.modules():
            if type(module).__name__ in _SHARDED_BLOCKS:
                fully_shard(module, mp_policy=policy)
        fully_shard(self.loss, mp_policy=policy)

    def update_ema(self) -> None:
        """Moves the average towards the weights; to be called after `step` has been counted."""
        if not self.ema:
            return
        # a young average forgets its start
        decay = min(self.config.optimizer.ema_decay, self.step / (self.step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def ema_components(self) -> Iterator[Components]:
        """Yields the components with the averaged weights, in evaluation mode, for as long as the block lasts.

        All processes must come here. Of a sharded run only the main process gets whole components.
        """
        self._exchange()
        self.parts.eval()
        if self.sharded:
            weights = {name: _whole(p.detach()) for name, p in zip(self.names, self.parameters, strict=True)}
            if self.accelerator.is_main_process:
                self._whole.trainable().eval().load_state_dict(weights, strict=False)
        if self._faithful is not None:
            self._whole.vae.set_faithful_weights(self._faithful)
        try:
            yield self._whole
        finally:
            self.parts.train()
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, mean in zip(self.parameters, self.ema, strict=False):  # there may be no average
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    def content(self) -> dict[str, Any]:
        """Returns everything to go on from, whole on the CPU or this device. All processes must come here."""
        rng = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        names, inner = self.names, self.optimizer.state_dict()["state"]
        content: dict[str, Any] = {
            "step": self.step,
            "position": self.position,
            "best": self.best,
            "exported": self.exported,
            "fingerprint": self.fingerprint,
            "weights": {n: _whole(p.detach()) for n, p in zip(names, self.parameters, strict=True)},
            "ema": {n: _whole(mean) for n, mean in zip(names, self.ema, strict=False)},
            "optimizer": {names[i]: {k: _whole(v) for k, v in state.items()} for i, state in inner.items()},
            "rng": _gathered(rng, self.accelerator),
        }
        if self.accelerator.scaler is not None:
            content["scaler"] = self.accelerator.scaler.state_dict()
        if self.adversary is not None:
            content["discriminator"] = self.adversary.discriminator.state_dict()
            content["discriminator_optimizer"] = self.adversary.optimizer.state_dict()
        if isinstance(self.components.vae, HaarPackets):
            vae = self.components.vae.config
            content["latents"] = {name: list(vae[name]) for name in ("latents_mean", "latents_std")}
        return content

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Goes back to what `content` said, in the file at `path`.

        Raises:
            TrainingError: it is damaged, or of another model or run.
        """
        content = read(path)
        try:
            self._compare(content)
            _fill(dict(zip(self.names, self.parameters, strict=True)), content["weights"])
            if self.ema:
                _fill(dict(zip(self.names, self.ema, strict=True)), content["ema"])
            state = self.optimizer.state_dict()
            state["state"] = {
                self.names.index(name): {key: _like(self.parameters[self.names.index(name)], v) for key, v in s.items()}
                for name, s in content["optimizer"].items()
            }
            self.optimizer.load_state_dict(state)
            if self.accelerator.scaler is not None and "scaler" in content:  # it may have begun without one
                self.accelerator.scaler.load_state_dict(content["scaler"])
            if self.adversary is not None:
                self.adversary.discriminator.load_state_dict(content["discriminator"])
                self.adversary.optimizer.load_state_dict(content["discriminator_optimizer"])
            self.step, self.position, self.best = content["step"], content["position"], content["best"]
            self.saved_step, self.exported = self.step, content.get("exported", True)
            if "latents" in content:
                for components in (self.components, self._whole):
                    components.vae.register_to_config(**content["latents"])
            if len(content["rng"]) == self.accelerator.num_processes:
                rng = content["rng"][self.accelerator.process_index]
                torch.set_rng_state(rng["cpu"])
                if "cuda" in rng and self.accelerator.device.type == "cuda":
                    torch.cuda.set_rng_state(rng["cuda"], self.accelerator.device)
        except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
            raise refusal(path, error) from error

    def _compare(self, content: Mapping[str, Any]) -> None:
        """Raises `ValueError` for what another run or another program wrote."""
        if not all(isinstance(content.get(name), kind) for name, kind in _ENTRIES.items()):
            raise ValueError("it is nothing that xpsr train has written")
        other = difference(self.fingerprint, content.get("fingerprint", {}))
        if other is not None:
            raise ValueError(other)
        if self.ema and not content["ema"]:
            raise ValueError("it keeps no average of the weights (optimizer.ema_decay)")
        if self.adversary is not None and "discriminator" not in content:
            raise ValueError("it has no adversary (loss.adversarial_weight)")
        if self.adversary is not None:
            read = "words.weight" in content["discriminator"]
            if read != bool(self.config.loss.adversary_content):
                raise ValueError(f"its adversary reads {'the' if read else 'no'} texts (loss.adversary_content)")


def _has_norm_on_frozen_input(components: Components) -> bool:
    """Returns whether a trained GroupNorm may see a tensor that needs no gradient.

    In channels_last, torch's CPU kernel (2.13) crashes in such a norm's backward pass.
    """
    networks = (components.unet, components.controlnet)
    return any(
        isinstance(module, nn.GroupNorm) and module.weight.requires_grad and not network.conv_in.weight.requires_grad
        for network in networks
        for module in network.modules()
    )


def keeps_half(parameter: nn.Parameter) -> bool:
    """Returns whether a weight is kept in half precision where that is what is computed with."""
    return not parameter.requires_grad and parameter.ndim > 1 and parameter.numel() >= _LARGE


def _whole(value: Any) -> Any:
    """Gathers a tensor's shards; returns anything else as it is. All processes must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(parameter: torch.Tensor, value: Any) -> Any:
    """Cuts, or lays out, an optimizer's whole tensor like the parameter it belongs to."""
    if not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    # torch's fused optimizers pair weights with their moments by places in memory
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _fill(targets: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    missing, unexpected = sorted(targets.keys() - values.keys()), sorted(values.keys() - targets.keys())
    if missing or unexpected:
        raise ValueError(
            f"it trains other parts: {len(missing)} weights are missing, {len(unexpected)} unexpected, first"
            f" {(missing + unexpected)[0]}"
        )
    for name, target in targets.items():
        if target.shape != values[name].shape:
            raise ValueError(f"{name} is {tuple(values[name].shape)}, not {tuple(target.shape)}")
    for name, target in targets.items():
        target.copy_(_like(target, values[name]))


def _gathered(value: Any, accelerator: "Accelerator") -> list[Any]:
    """Collects one value of every process."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return values
