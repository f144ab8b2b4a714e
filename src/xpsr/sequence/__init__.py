"""Frames of a video, restored so that what stands still does not flicker. No optical flow.

`frames` brings them into their order and looks at each; `shots` says where shots begin, and by which frame each is
described; `blending` is tensors, a result blended with earlier ones where their frames are alike; `restoring` takes
frames on disk through all of it.
"""

from xpsr.sequence.blending import NUM_EARLIER, Blended, Made, blend
from xpsr.sequence.frames import Frame, Look, in_order, look_at, open_frame
from xpsr.sequence.restoring import FrameRestorer, described_as_before, earlier_seed, facts_of, needed
from xpsr.sequence.shots import Shot, beginnings, find_shots

__all__ = [
    "Blended",
    "Frame",
    "FrameRestorer",
    "Look",
    "Made",
    "NUM_EARLIER",
    "Shot",
    "beginnings",
    "blend",
    "described_as_before",
    "earlier_seed",
    "facts_of",
    "find_shots",
    "in_order",
    "look_at",
    "needed",
    "open_frame",
]
