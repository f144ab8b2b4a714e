"""xpsr: photo super-resolution by a diffusion model that reads the picture's content and its quality.

    from xpsr import Restorer, write_image

    restored = Restorer("mini").restore("photo.jpg")
    write_image("photo_x4.png", restored.picture)

The public names below load on first use, so `import xpsr` is instant and does not import torch.
"""

import gc
import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xpsr.config import PRESETS, Settings, Size
    from xpsr.errors import Cancelled, InputError, MissingDependencyError, ModelError, TrainingError, XPSRError
    from xpsr.image import read_image, write_image
    from xpsr.models import XPSRControlNet, XPSRUNet
    from xpsr.pipeline import XPSRPipeline, XPSRPipelineOutput
    from xpsr.prior import Prior, describe, open_describer
    from xpsr.restore import Restorer

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "PRESETS",
    "Prior",
    "Restorer",
    "Settings",
    "Size",
    "TrainingError",
    "XPSRControlNet",
    "XPSRError",
    "XPSRPipeline",
    "XPSRPipelineOutput",
    "XPSRUNet",
    "__version__",
    "describe",
    "open_describer",
    "read_image",
    "write_image",
]

# Where onnxruntime is installed, diffusers imports it with any model, and since 1.32 it reports to its makers
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# diffusers imports torchao where it is installed, and all three complain of devices that are not there
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    if logging.getLogger(_name).level == logging.NOTSET:  # whoever set it wants to know
        logging.getLogger(_name).setLevel(logging.ERROR)

_MODULE_OF = {
    "Cancelled": "xpsr.errors",
    "InputError": "xpsr.errors",
    "MissingDependencyError": "xpsr.errors",
    "ModelError": "xpsr.errors",
    "PRESETS": "xpsr.config",
    "Prior": "xpsr.prior",
    "Restorer": "xpsr.restore",
    "Settings": "xpsr.config",
    "Size": "xpsr.config",
    "TrainingError": "xpsr.errors",
    "XPSRControlNet": "xpsr.models",
    "XPSRError": "xpsr.errors",
    "XPSRPipeline": "xpsr.pipeline",
    "XPSRPipelineOutput": "xpsr.pipeline",
    "XPSRUNet": "xpsr.models",
    "describe": "xpsr.prior",
    "open_describer": "xpsr.prior",
    "read_image": "xpsr.image",
    "write_image": "xpsr.image",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'xpsr' has no attribute {name!r}")
    was_on = gc.isenabled()
    gc.disable()  # libraries make a million objects, and no garbage: looking for it takes a fifth of the time
    try:
        value = getattr(import_module(_MODULE_OF[name]), name)
    finally:
        if was_on:
            gc.enable()
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
