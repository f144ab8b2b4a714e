"""How much of a picture is computed at once, so that it fits into a budget of memory."""

from dataclasses import dataclass

from xpsr.devices import Dtype, Offload

__all__ = ["Offload", "TilePlan"]


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """How much of a picture is computed at once.

    `tile_size` and `tile_overlap` are part of what the result looks like; the others only of what it costs.

    Attributes:
        tile_size: side of the tiles that are denoised, in latent pixels.
        tile_overlap: by which they overlap, in latent pixels.
        batch_size: tiles that go through the networks together.
        band_rows: rows of pixels, of what the model works on, that are made at once; None: all of them.
        vae_tile: side of what an `AutoencoderKL` is given at once, in pixels.
        dtype: of the networks.
        offload: what waits outside of the device.
        peak_bytes: memory that it takes at most, of the process on a CPU, else of the device; an estimate.
        seconds: how long it takes, by a rate that was measured on this machine; None: none was.
    """

    tile_size: int
    tile_overlap: int
    batch_size: int = 1
    band_rows: int | None = None
    vae_tile: int = 1024
    dtype: Dtype = "fp32"
    offload: Offload = "none"
    peak_bytes: int = 0
    seconds: float | None = None
