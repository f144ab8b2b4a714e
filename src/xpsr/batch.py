"""Many pictures on disk, one model: names, devices, and from picture file to picture file with a sidecar."""

import dataclasses
import json
import platform
import secrets
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from xpsr import __version__
from xpsr.checkpoint import checksums, fetch_model
from xpsr.config import UpscaleConfig
from xpsr.devices import Dtype, torch_dtype
from xpsr.errors import InputError
from xpsr.files import atomic_write, write_text
from xpsr.image import read_image
from xpsr.pipeline import XPSRPipeline
from xpsr.prior import Prior

__all__ = ["Restorer"]


class Restorer:
    """A loaded model with settings that it can follow; `pipe` is the model, on its device.

    Raises:
        ModelError: the model cannot be found or loaded.
        InputError: a setting is out of range for the model.
    """

    def __init__(self, config: UpscaleConfig, *, device: torch.device, dtype: Dtype):
        folder = fetch_model(config.model)
        # bfloat16 on a CPU is for the arithmetic only: the weights stay float32
        self._autocast = device.type == "cpu" and dtype == "bf16"
        weights = torch.float32 if self._autocast else torch_dtype(dtype)
        self.pipe = XPSRPipeline.from_pretrained(folder, dtype=weights).to(device)
        self._options = {"scale": config.scale, "preset": config.preset, "settings": config.overrides}
        self.pipe([], **self._options)  # no picture yet, but every option is checked
        settings = self.pipe.settings(config.preset, config.overrides)
        self._seed = config.seed
        self._facts = {
            "scale": config.scale,
            "settings": dataclasses.asdict(settings),
            "device": str(device),
            "dtype": dtype,
            "model": {"name": config.model, "sha256": checksums(folder)},
            "versions": {
                "xpsr": __version__,
                "torch": str(torch.__version__),
                "diffusers": diffusers.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
            },
        }

    def __call__(self, source: Path, target: Path, prior: Prior) -> dict[str, Any]:
        """Restores `source` into the PNG `target`, with a sidecar beside it whose content is returned.

        Raises:
            InputError: `source` cannot be read, the result would be too large, or `target` cannot be written.
        """
        start = time.perf_counter()
        try:
            str(source).encode()  # the sidecar names it
        except UnicodeEncodeError as error:
            raise InputError(f"{source}: the name is not UTF-8; rename it.") from error
        seed = secrets.randbelow(2**32) if self._seed is None else self._seed
        picture = read_image(source)
        planes = picture.pixels if picture.alpha is None else torch.cat([picture.pixels, picture.alpha])
        # noise is drawn on the CPU, so that a seed means the same on every device
        generator = torch.Generator().manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            image = self.pipe(planes, prior=prior, generator=generator, **self._options).images[0]
        sidecar = {
            "input": str(source),
            "input_size": [picture.width, picture.height],
            "output": target.name,
            "output_size": list(image.size),
            "prior": prior.as_dict(),
            "seed": seed,
            **self._facts,
            "seconds": round(time.perf_counter() - start, 3),
        }
        with atomic_write(target) as part:
            image.save(part, "PNG")
            # before the picture takes its name: a picture never lacks its sidecar
            write_text(target.with_suffix(".json"), json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n")
        return sidecar
