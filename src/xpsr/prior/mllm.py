"""Multimodal language models on this machine, through transformers.

The model is loaded at the first picture and freed by `release`, so that describer and diffusion model never need to fit
into memory together.
"""

import gc
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from xpsr.config.checks import check_argument, within
from xpsr.errors import MissingDependencyError, ModelError, brief
from xpsr.prior.asking import SECOND_SEED, SECOND_TEMPERATURE, name_picture, report_no_text
from xpsr.prior.texts import QUESTIONS, Aspect, Prior, Questions, clean_answer
from xpsr.prior.views import view_picture

if TYPE_CHECKING:  # they take seconds to load
    import torch
    from PIL import Image

    from xpsr.devices import Dtype
    from xpsr.image import ImageLike

__all__ = ["MLLMDescriber"]

_LESS_MEMORY = 'quantization="int4", a smaller batch_size or model, or a server (http://HOST/v1#MODEL)'


@dataclass(frozen=True)
class _Source:
    name: str
    revision: str | None


@dataclass(frozen=True)
class _Loaded:
    source: _Source
    model: Any
    processor: Any


class MLLMDescriber:
    """Asks an image-text-to-text model of transformers: one for both texts, or one for each.

    Nothing is loaded before the first picture. As a context manager it releases the models at the end.

    Args:
        model: id on the hub, or a folder.
        quality_model: another one for what is wrong with the picture; the first one then tells what is in it. The two
            are never in memory together, so give `describe` many pictures at a time.
        questions: what is asked, and what is shown; an empty question is not asked and its text stays empty.
        dtype: "auto" is that of the weights, but bfloat16 for float16 on a CPU.
        device: "auto" is the GPUs, with what does not fit there in the CPU's memory, or else the CPU; a name such as
            "cuda:1" or "cpu" is that one alone.
        quantization: "int8" or "int4" weights, by bitsandbytes; "int8" also by torchao.
        revision: branch, tag or commit of `model` on the hub.
        quality_revision: the same of `quality_model`.
        trust_remote_code: runs Python code that comes with the model, with all that your account may do.
        max_new_tokens: longest answer.
        batch_size: pictures that are asked about together; it changes no answer, but for rounding.
        local_files_only: fetches nothing from the hub.

    Raises:
        InputError: an option is out of range, or there is no such device.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        quality_model: str | os.PathLike[str] | None = None,
        questions: Questions = QUESTIONS["default"],
        dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
        device: str = "auto",
        quantization: Literal["none", "int8", "int4"] = "none",
        revision: str | None = None,
        quality_revision: str | None = None,
        trust_remote_code: bool = False,
        max_new_tokens: int = 160,
        batch_size: int = 4,
        local_files_only: bool = False,
    ):
        content = _Source(os.fspath(model), revision)
        quality = content if quality_model is None else _Source(os.fspath(quality_model), quality_revision)
        self._sources: dict[Aspect, _Source] = {"content": content, "quality": quality}
        both = tuple(dict.fromkeys((content, quality)))
        self.name = " + ".join(source.name for source in both)
        revisions = [source.revision or "" for source in both]
        self.revision = " + ".join(revisions) if any(revisions) else None
        self.questions: Questions = questions
        self.batch_size = check_argument("batch_size", batch_size, int, within(1, 1000, "4"))
        self.max_new_tokens = check_argument("max_new_tokens", max_new_tokens, int, within(1, 10**6, "160"))
        self._dtype = check_argument("dtype", dtype, Literal["auto", "fp32", "bf16", "fp16"])
        self._device = check_argument("device", device, str)
        self._quantization = check_argument("quantization", quantization, Literal["none", "int8", "int4"])
        if device != "auto":
            _place(device)  # refused here, and not for each picture
        # of both models, their configs and their processors
        self._options = {"trust_remote_code": trust_remote_code, "local_files_only": local_files_only}
        self._loaded: _Loaded | None = None

    def __repr__(self) -> str:
        return f"MLLMDescriber({self.name!r})"

    def __enter__(self) -> "MLLMDescriber":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Frees the memory of the model; the next picture loads it again."""
        self._loaded = None
        _free_memory()

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """Returns one prior for each of `images`, in their order. An answer that cannot be used is asked for once more,
        with sampling from a fixed seed; then the text stays empty and a warning names the picture.

        Args:
            images: whatever `to_picture` takes.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: a picture cannot be used.
            ModelError: a model cannot be found, loaded or run in the memory there is.
            MissingDependencyError: a package is missing; the message says how to install it.
        """
        from xpsr.image import to_picture

        texts: dict[Aspect, list[str]] = {"content": [""] * len(images), "quality": [""] * len(images)}
        loaded = self._loaded.source if self._loaded else None
        # two models take turns; the one that is in memory begins
        sources = sorted(dict.fromkeys(self._sources.values()), key=lambda source: source != loaded)
        for source in sources:
            aspects = [a for a in texts if self._sources[a] == source and self.questions.about(a)[0]]
            for start in range(0, len(images), self.batch_size):
                places = range(start, min(start + self.batch_size, len(images)))
                pictures = [to_picture(images[place]) for place in places] if aspects else []
                names = [name_picture(images[place], place) for place in places]
                for aspect in aspects:
                    question, view = self.questions.about(aspect)
                    views = [view_picture(picture, view) for picture in pictures]
                    self._load(source)
                    texts[aspect][start : places.stop] = self._ask(views, question, aspect, names)
                if progress and source == sources[-1]:
                    progress(len(places))
        return [Prior(content, quality) for content, quality in zip(texts["content"], texts["quality"], strict=True)]

    def _load(self, source: _Source) -> None:
        if self._loaded is not None:
            if self._loaded.source == source:
                return
            self.release()
        self._loaded = _load(
            source, dtype=self._dtype, device=self._device, quantization=self._quantization, options=self._options
        )

    def _ask(
        self, views: Sequence["Image.Image"], question: str, aspect: Aspect, names: Sequence[str]
    ) -> Iterator[str]:
        """Yields the texts about these views, empty where two answers cannot be used."""
        for view, name, answer in zip(views, names, self._answer(views, question), strict=True):
            text = clean_answer(answer)
            if not text:
                # alone, so that what comes of it does not depend on the company
                (answer,) = self._answer([view], question, sample=True)
                text = clean_answer(answer)
            if not text:
                report_no_text(name, aspect, answer)
            yield text

    def _answer(self, views: Sequence["Image.Image"], question: str, *, sample: bool = False) -> list[str]:
        """Returns what the model says about each view; where memory is short, in two halves."""
        assert self._loaded is not None
        for size in dict.fromkeys((len(views), -(-len(views) // 2))):
            try:
                return [
                    answer
                    for start in range(0, len(views), size)
                    for answer in self._generate(views[start : start + size], question, sample=sample)
                ]
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
            _free_memory()  # behind the handler, whose error still holds the tensors
        name = self._loaded.source.name
        message = f"{name}: out of memory with a single picture or half a batch"
        raise ModelError(message, code="out_of_memory", remedy=f"use {_LESS_MEMORY}")

    def _generate(self, views: Sequence["Image.Image"], question: str, *, sample: bool) -> list[str]:
        import torch

        assert self._loaded is not None
        model, processor = self._loaded.model, self._loaded.processor
        inputs = _inputs(self._loaded, views, question).to(model.device, dtype=model.dtype)
        with torch.inference_mode(), _seeded(SECOND_SEED if sample else None):
            tokens = model.generate(
                **inputs,
                max_new_tokens=self.max_new_tokens,
                num_beams=1,
                do_sample=sample,
                temperature=SECOND_TEMPERATURE if sample else None,
                top_k=50 if sample else None,
                top_p=1.0 if sample else None,
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        # (B, prompt + answer) or, of encoder-decoders, (B, answer)
        length = inputs["input_ids"].shape[1]
        if torch.equal(tokens[:, :length], inputs["input_ids"]):
            tokens = tokens[:, length:]
        return processor.batch_decode(tokens, skip_special_tokens=True)


def _inputs(loaded: _Loaded, views: Sequence["Image.Image"], question: str) -> Any:
    """Returns what the model's `generate` takes: a `BatchFeature` of tensors."""
    processor = loaded.processor
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    try:
        if template:
            conversations = [
                [{"role": "user", "content": [{"type": "image", "image": view}, {"type": "text", "text": question}]}]
                for view in views
            ]
            return processor.apply_chat_template(
                conversations,
                chat_template=template if isinstance(template, str) else None,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
                # the answer is to be in the few tokens there are
                **({"enable_thinking": False} if "enable_thinking" in str(template) else {}),
            )
        return processor(
            images=[[view] for view in views],
            text=[_prompt(loaded, question)] * len(views),
            padding=True,
            return_tensors="pt",
        )
    except ValueError as error:
        sizes = ", ".join(f"{view.width} x {view.height}" for view in views)
        message = f"{loaded.source.name}: cannot take views of {sizes} pixels: {brief(error)}."
        raise ModelError(message, code="wrong_size") from error


def _prompt(loaded: _Loaded, question: str) -> str:
    """Returns the question for a model without a chat template."""
    image_token = getattr(loaded.processor, "image_token", None)
    config = loaded.model.config
    if image_token is None or config.is_encoder_decoder:  # Florence-2 puts the picture before the question itself
        return question
    if config.model_type == "paligemma":
        return f"{image_token}{question}"
    return f"USER: {image_token}\n{question} ASSISTANT:"


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draws from this seed in the block, and leaves the random numbers of all others as they were."""
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _load(
    source: _Source, *, dtype: "Dtype | Literal['auto']", device: str, quantization: str, options: dict[str, Any]
) -> _Loaded:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageTextToText

    from xpsr.checkpoint import refuse_mismatch
    from xpsr.model_files import download

    name = source.name
    place = _place(device)
    quantizer = _quantizer(quantization)
    is_folder = os.path.isdir(name)  # noqa: PTH112 - pathlib raises for a name that is too long
    if not is_folder and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        message = f"{name}: no such folder, and no id of a model on the hub"
        raise ModelError(message, code="not_found", remedy="check the name")
    if not is_folder:  # transformers would try for half a minute to reach a hub that is out of reach
        download(name, ["config.json"], revision=source.revision, local_files_only=options["local_files_only"])
    options = {**options, "revision": source.revision}
    try:
        config = AutoConfig.from_pretrained(name, **options)
        processor = _load_processor(name, config, options)
        model, info = AutoModelForImageTextToText.from_pretrained(
            name,
            config=config,
            dtype=_dtype_of(dtype, config, place),
            device_map=place,
            quantization_config=quantizer,
            use_safetensors=True,  # upstream would fall back to a pickle
            output_loading_info=True,
            **options,
        )
    except (MemoryError, RuntimeError) as error:
        if _is_out_of_memory(error):
            message, remedy = f"{name}: does not fit into memory", f"use {_LESS_MEMORY}"
            raise ModelError(message, code="out_of_memory", remedy=remedy) from error
        raise ModelError(f"{name}: cannot be loaded: {brief(error)}.") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            message = f"{name}: comes with code of its own, which is run only with trust_remote_code=True"
            raise ModelError(message, code="refused", remedy="read it first") from error
        message, remedy = f"{name}: cannot be loaded: {brief(error)}", "check the name or the folder"
        raise ModelError(message, remedy=remedy) from error
    refuse_mismatch(name, info["missing_keys"], (), info["mismatched_keys"])
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not model.config.is_encoder_decoder:
        tokenizer.padding_side = "left"  # what a decoder writes follows the last token of its prompt
    return _Loaded(source, model.eval(), processor)


def _load_processor(name: str, config: Any, options: dict[str, Any]) -> Any:
    from transformers import AutoProcessor

    try:
        try:
            processor = AutoProcessor.from_pretrained(name, **options)
        except (ImportError, OSError, ValueError) as error:
            # a folder may also lack the settings for videos
            if not _needs_torchvision(error) and "video processor" not in str(error):
                raise
            processor = _load_image_processor(name, config, options)
    except (ImportError, ValueError) as error:
        if _needs_torchvision(error):
            raise ModelError(
                f"{name}: its processor needs torchvision, which breaks transformers beside a CPU-only PyTorch",
                code="conflict",
                remedy="use a model without it, such as LLaVA-1.5, Qwen2.5-VL or Gemma 3, or ask a server"
                " (http://HOST/v1#MODEL)",
            ) from error
        if isinstance(error, ImportError):  # transformers names the package and how to install it
            raise MissingDependencyError(f"{name}: {brief(error)}.") from error
        raise
    if not hasattr(processor, "image_processor"):
        message, remedy = f"{name}: has no processor for pictures", "use a model that is asked about pictures"
        raise ModelError(message, code="wrong_type", remedy=remedy)
    return processor


def _load_image_processor(name: str, config: Any, options: dict[str, Any]) -> Any:
    """Loads the model's processor without its part for videos, the only one that needs torchvision in most of them."""
    from transformers import ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    whole: Any = PROCESSOR_MAPPING[type(config)]

    class ImagesOnly(whole):
        apply_chat_template = ProcessorMixin.apply_chat_template  # SmolVLM's own asks the part for videos

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [attribute for attribute in super().get_attributes() if attribute != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:  # upstream's
            return super().from_args_and_dict(args, {**processor_dict, "video_processor": None}, **kwargs)

    return ImagesOnly.from_pretrained(name, **options)


def _needs_torchvision(error: Exception) -> bool:
    return "torchvision" in str(error).lower()


def _place(device: str) -> Any:
    """Returns the `device_map` for that name.

    Raises:
        InputError: there is no such device.
    """
    import torch

    from xpsr.devices import resolve_device

    if device == "auto" and torch.cuda.is_available():
        return "auto"  # all of them, and what does not fit there in the CPU's memory
    return {"": str(resolve_device(device))}


def _dtype_of(name: "Dtype | Literal['auto']", config: Any, place: Any) -> "torch.dtype | str":
    import torch

    from xpsr.devices import torch_dtype

    if name != "auto":
        return torch_dtype(name)
    # float16 on a CPU is about 20 times slower than the others
    return torch.bfloat16 if place == {"": "cpu"} and config.dtype == torch.float16 else "auto"


def _quantizer(quantization: str) -> Any:
    """Returns the `quantization_config` for that name.

    Raises:
        MissingDependencyError: no package that does it is installed.
    """
    if quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes"):
        import torch
        from transformers import BitsAndBytesConfig

        if quantization == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    if quantization == "int8" and importlib.util.find_spec("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    message = "needs bitsandbytes: pip install bitsandbytes"
    raise MissingDependencyError(message, field="quantization", value=quantization)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # the allocators of the CPU and of MPS raise plain errors
    return re.search(r"out of memory|can't allocate memory|not enough memory", str(error), re.IGNORECASE) is not None


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
