"""From a small degraded picture to a large clean one.

`pipeline` is the way through. `conditions` is what the networks look at, `texts` and `latents` are how words and pixels
become it.
"""

from xpsr.pipeline.pipeline import XPSRPipeline, XPSRPipelineOutput

__all__ = ["XPSRPipeline", "XPSRPipelineOutput"]
