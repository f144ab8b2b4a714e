"""Training data: (hr, lr, prior) from clean pictures degraded on the fly, from stored pairs, or from shards.

`samples` says what a batch is, `loading` who reads which sample. `crops` degrades on the fly, `pairs` and `shards`
read what was stored, `photos` joins priors. `making` stores pairs, `checking` looks for what is wrong with them.
"""

from xpsr.data.checking import Finding, Report, check_folder
from xpsr.data.crops import CropDataset, levels
from xpsr.data.loading import Loader, RankBatches, build_dataset, build_loader
from xpsr.data.making import Made, make_pairs
from xpsr.data.pairs import FolderStore, PairDataset
from xpsr.data.photos import Photo, list_photos
from xpsr.data.samples import Batch, Collate, Sample
from xpsr.data.seeding import generator_for
from xpsr.data.shards import ShardStore

__all__ = [
    "Batch",
    "Collate",
    "CropDataset",
    "Finding",
    "FolderStore",
    "Loader",
    "Made",
    "PairDataset",
    "Photo",
    "RankBatches",
    "Report",
    "Sample",
    "ShardStore",
    "build_dataset",
    "build_loader",
    "check_folder",
    "generator_for",
    "levels",
    "list_photos",
    "make_pairs",
]
