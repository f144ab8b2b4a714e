"""XPSR for programs that load every pipeline by `DiffusionPipeline.from_pretrained`; needs xpsr installed.

    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline="integrations/diffusers", trust_remote_code=True, dtype=torch.float32
    )

diffusers looks here for the one class that is a pipeline. `docs/diffusers.md` tells what is not checked on this way.
"""

from xpsr import XPSRPipeline

__all__ = ["XPSRPipeline"]
