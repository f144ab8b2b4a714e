"""The parts of a model, new ones, and which of their parameters are trained."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from torch import nn

from xpsr import checkpoint
from xpsr.config import LossConfig, ModelConfig, PartsConfig
from xpsr.config.checks import fault, said
from xpsr.errors import InputError, MissingDependencyError
from xpsr.model_files import download, weight_patterns
from xpsr.models import DeepHaarAutoencoder, HaarAutoencoder, XPSRControlNet, XPSRUNet

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = [
    "Components",
    "build_components",
    "build_from_base",
    "build_tokenizer",
    "choose_parts",
    "merge_adapters",
    "save_adapters",
    "with_schedule",
    "without_fusion",
]

ADAPTER = "xpsr"
_VOCABULARY = Path(__file__).with_name("vocabulary.txt")


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
        """Returns the parts with weights, by name; of the autoencoder only `vae_parts`."""
        parts: dict[str, nn.Module] = {
            "unet": self.unet,
            "controlnet": self.controlnet,
            "text_encoder": self.text_encoder,
        }
        return nn.ModuleDict(parts | self.vae_parts())

    def vae_parts(self) -> dict[str, nn.Module]:
        """Returns by name what the mini's autoencoder adds to the exact inverse; of another one, nothing."""
        if isinstance(self.vae, DeepHaarAutoencoder):
            return {"vae_decoder": self.vae.decoder}
        return {"refiner": self.vae.refiner} if isinstance(self.vae, HaarAutoencoder) else {}

    def to(self, device: torch.device) -> "Components":
        """Moves the parts in place and returns them."""
        for part in (self.vae, self.text_encoder, self.unet, self.controlnet):
            part.to(device)
        return self


def build_tokenizer(vocabulary: Path | None, size: int) -> "CLIPTokenizer":
    """Builds a byte-level CLIP tokenizer of at most `size` tokens, its merges learned from the lines of a text file.

    Any text can be told: what the file does not hold falls apart into bytes. None is the file that comes with xpsr.

    Raises:
        InputError: the file cannot be read.
    """
    import tempfile

    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    at_end = [f"{letter}</w>" for letter in alphabet]
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
        vocab_size=size - len(specials),
        special_tokens=at_end,  # or their numbers, and so the order of merges, would differ in every call
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    vocabulary = vocabulary or _VOCABULARY
    try:
        lines = vocabulary.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot be read ({reason})", field="model.vocabulary", value=said(vocabulary), remedy="name a text file"
        ) from error
    tokenizer.train_from_iterator(lines, trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = [*alphabet, *at_end, *("".join(pair) for pair in merges)]
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


def build_components(config: ModelConfig, pixels: torch.Tensor, *, semantic_fusion: bool = True) -> Components:
    """Builds a new, untrained model of the sizes in `config`.

    `pixels` (B, 3, H, W) in [0, 1] are some training pictures: the autoencoder takes its mean and spread from them.
    The UNet's conditional attentions start at zero, the ControlNet from the UNet's encoder.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = DeepHaarAutoencoder.from_pixels(
        pixels * 2 - 1, decoder_channels=config.decoder_channels, decoder_layers=config.decoder_layers
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
    if config.is_residual:  # what follows the decoder alone can then only add
        nn.init.zeros_(unet.conv_out.weight)
        nn.init.zeros_(unet.conv_out.bias)
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
    zero_terminal_snr = config.zero_terminal_snr is not False and config.prediction_type != "epsilon"
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction_type or "v_prediction",
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    controlnet = XPSRControlNet.from_unet(
        unet, conditioning_embedding_out_channels=config.conditioning_channels, semantic_fusion=semantic_fusion
    )
    return Components(vae, text_encoder, tokenizer, unet, controlnet, scheduler)


def build_from_base(config: ModelConfig, *, semantic_fusion: bool = True) -> Components:
    """Builds XPSR on the Stable Diffusion that `config.base` names: its parts, two networks that start from its UNet.

    Raises:
        ModelError: there is no such model, or a part of it cannot be loaded.
    """
    from transformers import CLIPTextModel

    assert config.base is not None
    folder = Path(config.base)
    if not folder.is_dir():
        weights = [f for part in ("unet", "vae", "text_encoder") for f in weight_patterns(part)]
        folder = download(config.base, ["*.json", "*.txt", *weights])
    plain = checkpoint.load_strict(UNet2DConditionModel, folder, subfolder="unet")
    unet = XPSRUNet.from_unet(plain, zero_init=config.zero_init)
    controlnet = XPSRControlNet.from_unet(
        plain, conditioning_embedding_out_channels=config.conditioning_channels, semantic_fusion=semantic_fusion
    )
    components = Components(
        vae=checkpoint.load_strict(AutoencoderKL, folder, subfolder="vae"),
        text_encoder=checkpoint.load_strict(CLIPTextModel, folder, subfolder="text_encoder"),
        tokenizer=checkpoint.load_tokenizer(folder / "tokenizer"),
        unet=unet,
        controlnet=controlnet,
        scheduler=checkpoint.load_scheduler(DDPMScheduler, folder / "scheduler", clip_sample=False),
    )
    return with_schedule(components, config)


def with_schedule(components: Components, config: ModelConfig) -> Components:
    """Returns the components with what `config` says of prediction and terminal noise; all else is as it was.

    Raises:
        InputError: noise is to be predicted where the schedule ends in noise alone.
    """
    changes: dict[str, Any] = {}
    if config.prediction_type is not None:
        changes["prediction_type"] = config.prediction_type
    if config.zero_terminal_snr is not None:
        changes["rescale_betas_zero_snr"] = config.zero_terminal_snr
        if config.zero_terminal_snr:  # or the last timestep, noise alone, would never be visited
            changes["timestep_spacing"] = "trailing"
    if not changes:
        return components
    scheduler = DDPMScheduler.from_config(components.scheduler.config, **changes)
    if scheduler.config.rescale_betas_zero_snr and scheduler.config.prediction_type == "epsilon":
        raise InputError(
            "this schedule ends in noise alone, of which nothing follows for the picture",
            field="model.prediction_type",
            remedy="use v_prediction, or model.zero_terminal_snr=false",
        )
    return replace(components, scheduler=scheduler)


def without_fusion(components: Components) -> Components:
    """Gives the components a ControlNet whose stock attentions read both texts; they start from the content's."""
    if not components.controlnet.config.semantic_fusion:
        return components
    controlnet = XPSRControlNet.from_config(components.controlnet.config, semantic_fusion=False)
    state = {
        name.replace(".content.", "."): value
        for name, value in components.controlnet.state_dict().items()
        if ".quality." not in name and ".fusion." not in name
    }
    controlnet.load_state_dict(state)
    return replace(components, controlnet=controlnet)


def choose_parts(components: Components, config: PartsConfig, loss: LossConfig, *, seed: int) -> None:
    """Sets `requires_grad` of every parameter as `config` says, and adds adapters, drawn from `seed`, where it does.

    What `loss` never looks at is not trained: heads without a term, the autoencoder's decoder without the one step.

    Raises:
        InputError: a part that this model does not have, or nothing is trained.
        MissingDependencyError: adapters without peft.
    """
    parts = components.trainable()
    chosen = set(config.train)
    for name in {"refiner", "vae_decoder"} & chosen - set(parts):
        message = f"names {name}, which this model's autoencoder does not have"
        remedy = next((f"use {other}" for other in components.vae_parts()), "leave it out")
        raise fault(config, "train", message, remedy).within("parts")
    components.vae.requires_grad_(False)
    for name, part in parts.items():
        part.requires_grad_("everything" in chosen or name in chosen)
    if "conditional_attentions" in chosen:
        for parameter in components.unet.conditional_parameters():
            parameter.requires_grad_(True)
    controlnet = components.controlnet
    for name, heads in (
        ("degradation_free_images", controlnet.image_encoder.to_images),
        ("degradation_free_latents", controlnet.to_latents),
    ):
        wanted, count = getattr(loss, name), len(heads)
        if any(not -count <= index < count for index in wanted or ()):
            message = f"is not all in [{-count}, {count - 1}], of the {count} that this model has"
            raise fault(loss, name, message, "use null for all", code="out_of_range").within("loss")
        used = range(count) if wanted is None else [index % count for index in wanted]
        for index, head in enumerate(heads):
            if not loss.degradation_free_weight or index not in used:
                head.requires_grad_(False)
    if not loss.one_step_fraction:
        for part in components.vae_parts().values():
            part.requires_grad_(False)
    networks: Mapping[str, Any] = {"unet": components.unet, "controlnet": components.controlnet}
    with torch.random.fork_rng(devices=[]):  # adapters are initialised from torch's global generator
        torch.manual_seed(seed)
        for name in ("unet", "controlnet"):
            if f"{name}_lora" in chosen:
                _add_adapter(networks[name], config, skip_conditional="conditional_attentions" in chosen)
    if not any(parameter.requires_grad for part in parts.values() for parameter in part.parameters()):
        error = fault(config, "train", "trains nothing that loss looks at", "name other parts, or everything")
        raise error.within("parts")


def _add_adapter(network: Any, config: PartsConfig, *, skip_conditional: bool) -> None:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingDependencyError(
            "needs peft for adapters",
            field="parts.train",
            value=said(config.train),
            remedy="run `pip install peft`",
        ) from error
    skipped = (".conditional_attentions.",) if skip_conditional else ()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    targets = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and any(name == end or name.endswith(f".{end}") for end in config.lora_targets)
        and not any(part in name for part in skipped)
    ]
    if not targets:
        raise fault(config, "lora_targets", "name no layer", "use to_q and to_k, for example").within("parts")
    network.add_adapter(LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets), ADAPTER)
    for name, parameter in network.named_parameters():
        # peft freezes what it does not add
        parameter.requires_grad_(f".{ADAPTER}." in name or name.replace(".base_layer.", ".") in trained)


def merge_adapters(components: Components) -> Components:
    """Returns components with what adapters add in the weights; without adapters, the components themselves."""
    merged = {}
    for name in ("unet", "controlnet"):
        network: Any = getattr(components, name)
        if getattr(network, "peft_config", None):
            network = copy.deepcopy(network)
            network.fuse_lora()
            network.unload_lora()
            merged[name] = network
    return replace(components, **merged)


def save_adapters(components: Components, folder: Path) -> list[Path]:
    """Writes each network's adapter, if it has one, to `folder/NETWORK` as diffusers' `load_lora_adapter` reads it."""
    written = []
    for name in ("unet", "controlnet"):
        network: Any = getattr(components, name)
        if getattr(network, "peft_config", None):
            network.save_lora_adapter(str(folder / name), adapter_name=ADAPTER)
            written.append(folder / name)
    return written
