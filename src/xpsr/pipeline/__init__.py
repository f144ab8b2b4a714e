"""From a small degraded picture to a large clean one.

`pipeline` is the way through, `loading` how it comes from a folder, `placing` where it computes. `conditions` is what
the networks look at, `texts` and `latents` are how words and pixels become it, `tiled_vae` how large pictures do;
`denoising` takes the steps, tile by tile, `bands` finishes what is decoded, and `previews` shows it on the way. `costs`
says what all that takes; `arguments` is what a call is given and gives back.
"""

from xpsr.pipeline.arguments import XPSRPipelineOutput
from xpsr.pipeline.conditions import MAX_OUTPUT_PIXELS
from xpsr.pipeline.pipeline import XPSRPipeline

__all__ = ["MAX_OUTPUT_PIXELS", "XPSRPipeline", "XPSRPipelineOutput"]
