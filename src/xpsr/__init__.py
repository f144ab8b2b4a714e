"""xpsr: photo super-resolution by a diffusion model that reads the picture's content and its quality.

    from xpsr import XPSRPipeline

    pipe = XPSRPipeline.from_pretrained("mini")
    pipe("photo.jpg", scale=4).images[0].save("photo_x4.png")

The public names below load on first use, so `import xpsr` is instant and does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xpsr.config import PRESETS, Settings
    from xpsr.errors import XPSRError
    from xpsr.models import XPSRControlNet, XPSRUNet
    from xpsr.pipeline import XPSRPipeline, XPSRPipelineOutput
    from xpsr.prior import Prior

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Prior",
    "Settings",
    "XPSRControlNet",
    "XPSRError",
    "XPSRPipeline",
    "XPSRPipelineOutput",
    "XPSRUNet",
    "__version__",
]

_MODULE_OF = {
    "PRESETS": "xpsr.config",
    "Prior": "xpsr.prior",
    "Settings": "xpsr.config",
    "XPSRControlNet": "xpsr.models",
    "XPSRError": "xpsr.errors",
    "XPSRPipeline": "xpsr.pipeline",
    "XPSRPipelineOutput": "xpsr.pipeline",
    "XPSRUNet": "xpsr.models",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'xpsr' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
