"""What `xpsr upscale` is told."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xpsr.config.checks import SEED, Checked, Pattern, fault, option, within
from xpsr.config.settings import PresetName, Settings
from xpsr.config.sizes import MAX_OUTPUT_PIXELS, PIXELS, Size, usual_size
from xpsr.errors import InputError
from xpsr.sources import ResultFormat

__all__ = ["UpscaleConfig"]

_MEMORY = Pattern(
    r"(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]*(\.[0-9]+)?)\s*([kKmMgGtT]i?)?[bB]?", "an amount of memory", "4GB, for example"
)

_COUNT = within(1, 2**40, "67108864, for example")


@dataclass(frozen=True, kw_only=True)
class UpscaleConfig(Checked):
    """How `xpsr upscale` restores. What is None is what `preset` says, or else the model's own default.

    The first part are `Settings`; they say what each one means.
    """

    num_inference_steps: int | None = None
    scheduler: Literal["model", "ddpm", "ddim", "unipc", "dpm"] | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    cache_interval: int | None = None
    controlnet_conditioning_scale: float | None = None
    strength: float | None = None
    start: Literal["lr", "noise"] | None = None
    added_noise_level: int | None = None
    offset_noise_scale: float | None = None
    tile_size: int | None = None
    tile_overlap: int | None = None
    tile_weights: Literal["symmetric", "reference"] | None = None
    num_shifts: int | None = None
    fidelity: float | None = None
    fit: Literal["pad", "stretch"] | None = None
    min_working_size: int | None = None
    color_match: Literal["none", "adain", "wavelet"] | None = None
    grain: float | None = None
    content_suffix: str | None = None
    reserve_suffix: bool | None = None
    long_texts: Literal["chunk", "cut"] | None = None
    negative_content: str | None = None
    negative_quality: str | None = None

    preset: PresetName | None = None
    scale: float | None = None  # how large results are, in one of five ways; `Size` says what each one means
    size: str | None = option(None, "", PIXELS)
    longest: int | None = None
    shortest: int | None = None
    megapixels: float | None = None
    protect: str | None = None  # "auto" or the file of a mask; `Restorer.restore` says what both options do
    lr_consistency: bool = False
    seed: int | None = option(None, "The same for every picture; null: a random one for each.", SEED)
    content: str | None = None  # None: what the describer, or the file of priors, says
    quality: str | None = None
    describer: str = "mini"  # "none", "mini", a server's address, a model's folder or its name on the hub
    priors: Path | None = None  # priors that were written before, instead of a describer
    model: str = "mini"
    device: str = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    engine: Literal["torch", "openvino", "onnx"] = "torch"  # what computes; all but torch: of a folder of `xpsr export`
    weights_dtype: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"  # `Restorer` says what these three do
    memory: str | None = option(None, "Of the process; null: what is free.", _MEMORY)
    compile: bool = False
    offload: Literal["none", "model", "group"] = "none"
    format: ResultFormat = "same"
    file_quality: int | None = option(None, "1 to 100, of JPEG, WebP, AVIF and JPEG XL.", within(1, 100, "95"))
    keep_cmyk: bool = False  # CMYK becomes CMYK again, where it has a profile
    strip_gps: bool = False  # where a picture was taken
    strip_metadata: bool = False  # EXIF, XMP and IPTC
    provenance: bool = True  # results say how they came about
    c2pa: tuple[Path, Path] | None = option(
        None, "PEM files of certificates and of a key, which sign results; or null."
    )
    max_pixels: int | None = option(None, "Of a picture, width times height; null: 67,108,864.", _COUNT)
    max_bytes: int | None = option(None, "Of a picture's file; null: 536,870,912.", _COUNT)
    accept_truncated: bool = False  # whether files that end too early are read as far as they go
    on_existing: Literal["update", "skip", "overwrite", "error"] = (
        "update"  # of what is there already; see `xpsr.records`
    )

    @property
    def size_asked(self) -> Size | None:
        """How large results are to be, where anything is said."""
        asked = {f.name: getattr(self, f.name) for f in dataclasses.fields(Size)}
        return Size(**asked) if any(value is not None for value in asked.values()) else None

    def target(self, width: int, height: int) -> Size:
        """Returns how large the result of a picture is; what makes sense for it where nothing is said."""
        return self.size_asked or usual_size(width, height)

    def refuse_large_result(self, width: int, height: int) -> None:
        """Raises `InputError` where the result of a picture of `width` x `height` would be larger than any may be."""
        target = self.target(width, height)
        target.refuse_above(MAX_OUTPUT_PIXELS, width, height)
        target.of(width, height)

    @property
    def overrides(self) -> dict[str, Any]:
        """The `Settings` that are given here, as JSON has them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Settings)}
        given = {name: value for name, value in values.items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    def __post_init__(self) -> None:
        """Refuses what no model can do; what a certain model cannot do, its pipeline refuses."""
        super().__post_init__()
        Settings(**self.overrides)
        _ = self.size_asked
        if self.c2pa is not None and not self.provenance:
            message, remedy = "leaves out what c2pa signs", "leave one of them out"
            raise InputError(message, code="conflict", field="provenance", remedy=remedy)
        for name, usual in (("compile", False), ("weights_dtype", "auto")):
            if self.engine != "torch" and getattr(self, name) != usual:
                raise fault(self, name, f"does nothing beside engine {self.engine}", "leave one of them out")
