"""From a small degraded picture to a large clean one.

`pipeline` is the way through; `texts` and `latents` are how it reads words and pixels.
"""

from xpsr.pipeline.pipeline import XPSRPipeline, XPSRPipelineOutput

__all__ = ["XPSRPipeline", "XPSRPipelineOutput"]
