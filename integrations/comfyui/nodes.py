"""The three nodes. They hand tensors and texts over to xpsr and back; what becomes of them is xpsr's.

In ComfyUI an IMAGE is (B, H, W, C) and a MASK (B, H, W), floats in [0, 1]. Pictures of a batch are restored one by one,
each as it would be alone. Inputs are called as xpsr calls them, so that its errors name them. Nothing of ComfyUI is
needed to import this file.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import xpsr
from xpsr.prior import completed

__all__ = ["Describe", "LoadModel", "Restore"]

Inputs = dict[str, dict[str, tuple[Any, ...]]]
Tell = Callable[[int, int, int, int], None]  # index of a picture, number of pictures, passes done of it, passes in all


def widget(kind: str, default: object, tooltip: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """An input that a person fills in: STRING, INT, FLOAT or BOOLEAN."""
    return kind, {"default": default, "tooltip": tooltip, **more}


def prior_text(what: str) -> tuple[str, dict[str, Any]]:
    """An input for one of the two texts of a prior."""
    tooltip = f"{what}. Of several pictures: one line for all, or a line each."
    empty = f"{what}; empty: asks the describer"
    return widget("STRING", "", tooltip, multiline=True, dynamicPrompts=False, placeholder=empty)


DESCRIBER = widget(
    "STRING",
    "mini",
    "Who looks at pictures: mini, which comes with xpsr; none; a model's folder or its name on the hub; or a"
    " server's address, as in http://localhost:11434/v1#qwen2.5vl.",
)


class LoadModel:
    """Loads a model, which stays loaded until something of it changes."""

    DESCRIPTION = "Loads an XPSR model."
    CATEGORY = "XPSR"
    FUNCTION = "load"
    RETURN_TYPES = ("XPSR_MODEL",)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        name = "mini, which comes with xpsr; the path of a model's folder; or its name on the hub, as owner/name."
        return {
            "required": {
                "model": widget("STRING", "mini", name),
                "device": (["auto", "cuda", "mps", "cpu"], {"tooltip": "auto: the CPU where ComfyUI computes on it."}),
                "dtype": (["auto", "fp32", "bf16", "fp16"], {"tooltip": "What is computed with."}),
            }
        }

    @classmethod
    def IS_CHANGED(cls, model: str = "mini", device: str = "auto", dtype: str = "auto") -> int:
        index = Path(model, "model_index.json")  # which is written anew when a folder gets another model
        return index.stat().st_mtime_ns if index.is_file() else 0

    def load(self, model: str, device: str, dtype: Any) -> "tuple[xpsr.Restorer]":
        comfy = comfyui()
        if device == "auto" and comfy and comfy.model_management.get_torch_device().type == "cpu":
            device = "cpu"
        return (xpsr.Restorer(model, device=device, dtype=dtype),)


class Describe:
    """Says what is in pictures and what is wrong with them."""

    DESCRIPTION = "Says what is in a picture and what is wrong with it, in a line for each picture of a batch."
    CATEGORY = "XPSR"
    FUNCTION = "describe"
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("content", "quality")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"image": ("IMAGE",), "describer": DESCRIBER}}

    def describe(self, image: torch.Tensor, describer: str) -> tuple[str, str]:
        priors = described(pictures_of(image), describer, progress())
        contents, qualities = ([one_line(getattr(prior, name)) for prior in priors] for name in ("content", "quality"))
        return "\n".join(contents), "\n".join(qualities)


class Restore:
    """Restores and enlarges pictures."""

    DESCRIPTION = "Restores and enlarges pictures. The texts say what is in them and what is wrong with them."
    CATEGORY = "XPSR"
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE", "MASK", "STRING")
    RETURN_NAMES = ("image", "invented", "record")
    OUTPUT_TOOLTIPS = (
        "The restored pictures; with alpha where one of them is transparent somewhere.",
        "White where a result shows other than a plain enlargement does.",
        "How each came about, its prior and seed too: a JSON object, in a line for each picture.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        fidelity = "0 paints what looks best, 1 what is nearest to the picture; of models that know both, as the mini."
        seed = "Of noise and grain, for each picture the same. Fixed, nothing is made again that is there."
        protect = "Goes back to a plain enlargement where the result contradicts the picture."
        return {
            "required": {
                "model": ("XPSR_MODEL",),
                "image": ("IMAGE",),
                "content": prior_text("What is in the picture"),
                "quality": prior_text("What is wrong with it"),
                "describer": DESCRIBER,
                "scale": widget("FLOAT", 4.0, "How much larger, along a side.", min=0.0625, max=16.0, step=0.25),
                "fidelity": widget("FLOAT", 0.0, fidelity, min=0.0, max=1.0, step=0.05),
                "seed": widget("INT", 0, seed, min=0, max=2**32 - 1, control_after_generate=True),
                "num_inference_steps": widget("INT", 0, "0: as is usual for the model.", min=0, max=1000),
                "guidance_scale": widget("FLOAT", 0.0, "0: as is usual for the model.", min=0.0, max=30.0, step=0.1),
                "protect": widget("BOOLEAN", False, protect),
            },
            "optional": {
                "protect_mask": ("MASK", {"tooltip": "Goes back to a plain enlargement where this is white, instead."}),
                "transparency": ("MASK", {"tooltip": "White where a picture is transparent, as of Load Image."}),
                "grain": widget("FLOAT", -1.0, "In fine detail; below 0: the model's.", min=-1.0, max=1.0, step=0.05),
            },
        }

    def restore(
        self,
        model: "xpsr.Restorer",
        image: torch.Tensor,
        content: str,
        quality: str,
        describer: str,
        scale: float,
        fidelity: float,
        seed: int,
        num_inference_steps: int,
        guidance_scale: float,
        protect: bool,
        protect_mask: torch.Tensor | None = None,
        transparency: torch.Tensor | None = None,
        grain: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        pictures = pictures_of(image, transparency)
        contents = each_line(content, len(pictures), "content")
        qualities = each_line(quality, len(pictures), "quality")
        masks = each_mask(protect_mask, len(pictures), "protect_mask")
        usual = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        settings = {"fidelity": fidelity, **{name: value for name, value in usual.items() if value}}
        settings |= {} if grain is None or grain < 0 else {"grain": grain}
        height, width = pictures[0].shape[-2:]
        plan = model.plan(width, height, scale=scale, settings=settings)  # refuses what cannot be before anybody looks
        tell = progress()
        is_said = all([*contents, *qualities])
        priors = [xpsr.Prior()] * len(pictures) if is_said else described(pictures, describer, tell)
        if (comfy := comfyui()) and model.pipe.device.type != "cpu":  # ComfyUI's own models make room
            comfy.model_management.free_memory(plan.peak_bytes, model.pipe.device)
        results = [
            model.restore(
                picture,
                completed(priors[index], contents[index] or None, qualities[index] or None),
                scale=scale,
                settings=settings,
                seed=seed,
                protect="auto" if protect and masks[index] is None else masks[index],
                progress=partial(tell, index, len(pictures)),
            )
            for index, picture in enumerate(pictures)
        ]
        planes = [result.picture.pixels for result in results]
        alphas = [result.picture.alpha for result in results]
        if any(alpha is not None for alpha in alphas):
            opaque = torch.ones_like(planes[0][:1])
            shown = [opaque if alpha is None else alpha for alpha in alphas]
            planes = [torch.cat(pair) for pair in zip(planes, shown, strict=True)]
        records = "\n".join(json.dumps(result.record, ensure_ascii=False) for result in results)
        return torch.stack(planes).movedim(1, -1), torch.cat([result.map for result in results]), records


def pictures_of(image: torch.Tensor, transparency: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Returns (C, H, W) of each picture; C is 4 where the mask says that it is transparent somewhere."""
    planes = list(image.float().clamp(0, 1).movedim(-1, 1))  # other nodes overshoot, and clip when they save
    for index, mask in enumerate(each_mask(transparency, len(planes), "transparency")):
        if mask is None:
            continue
        if mask.shape[1:] != planes[index].shape[1:]:
            raise xpsr.InputError("is of another size than the picture", field="transparency", remedy="resize the mask")
        planes[index] = torch.cat([planes[index][:3], 1 - mask.to(planes[index])])
    return planes


def each_mask(masks: torch.Tensor | None, count: int, field: str) -> list[torch.Tensor | None]:
    """Returns (1, H, W) for each of `count` pictures; None where it is black, as Load Image's may be."""
    if masks is None:
        return [None] * count
    planes = masks.float().clamp(0, 1).reshape(-1, 1, *masks.shape[-2:])
    if len(planes) not in (1, count):
        raise xpsr.InputError(f"has {len(planes)} masks for {count} pictures", field=field, remedy="use one for all")
    return [plane if plane.any() else None for plane in planes.expand(count, -1, -1, -1)]


def each_line(given: str, count: int, field: str) -> list[str]:
    """Returns the text of each of `count` pictures, on one line: the same for all, or a line each."""
    lines = given.split("\n") if count > 1 else [given]
    if len(lines) not in (1, count):
        raise xpsr.InputError(f"has {len(lines)} lines for {count} pictures", field=field, remedy="use one for all")
    return [one_line(line) for line in lines] * (count // len(lines))


def one_line(given: str) -> str:
    """Returns a text without line breaks."""
    return " ".join(given.split())


def described(pictures: Sequence[torch.Tensor], describer: str, tell: Tell) -> "list[xpsr.Prior]":
    """Returns what the describer says of each picture; `tell` ends it where somebody interrupts the node."""
    return xpsr.describe(list(pictures), describer, progress=lambda _: tell(0, 1, 0, 1))


def progress() -> Tell:
    """Returns what tells ComfyUI how far a node is, and ends it if somebody interrupts it."""
    comfy = comfyui()
    bar = comfy and comfy.utils.ProgressBar(1)

    def tell(index: int, count: int, done: int, total: int) -> None:
        if comfy:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(index * total + done, count * total)

    return tell


def comfyui() -> Any:
    """Returns ComfyUI's own modules; None outside of it."""
    try:
        import comfy.model_management
        import comfy.utils
    except ImportError:
        return None
    return comfy
