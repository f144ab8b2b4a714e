"""Trains the network that tells how blurred, noisy and compressed a picture is.

    python scripts/train_describer.py photos data/photos.tsv levels.safetensors --minutes 60 --thresholds pairs

`pairs`, as `xpsr degrade` makes them, are degraded as the pictures that will be met: from where on a fault is slight,
or strong, is set so that most of their levels come out right.

Photographs are reduced to a quarter and degraded on the way: blur, resizing, noise and JPEG, once or twice, each of
them or none. What was done gives the truth, as it does for training pairs (`xpsr.data.crops.levels`): blur is the
standard deviation of all blurs together in pixels of the result, noise its standard deviation of 255 (what was added
before the last reduction counts half), compression the lowest JPEG quality. The three are drawn independently.
"""

import argparse
import io
import json
import math
import time
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from xpsr.config import DataConfig
from xpsr.data import list_photos
from xpsr.data.crops import levels
from xpsr.degradation import Degraded, gaussian_kernel
from xpsr.image import read_image
from xpsr.prior import Level
from xpsr.prior.mini import FAULTS, LevelsNetwork, native_crops

NOT_SHOWN = ("canyon5.jpg", "forest3.jpg", "city4.jpg", "beach1.jpg")  # the project shows these
SIDE, CROP, BATCH = 96, 64, 64
RANGES = {  # from .. to of clean, slight and strong
    "blur": ((0.0, 0.25), (0.25, 0.45), (0.45, 0.9)),
    "noise": ((0.0, 1.5), (1.5, 5.0), (5.0, 13.0)),
    "quality": ((92.0, 100.0), (75.0, 92.0), (30.0, 75.0)),
}
ORDER = get_args(Level)
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)


def as_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def blurred(pixels: np.ndarray, sigma_x: float, sigma_y: float, turn: float) -> np.ndarray:
    radius = max(1, math.ceil(3 * max(sigma_x, sigma_y)))
    kernel = gaussian_kernel("aniso", 2 * radius + 1, sigma_x, sigma_y, turn)
    return cv2.filter2D(pixels, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)


def resized(pixels: np.ndarray, height: int, width: int, resampling: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(as_uint8(pixels)).resize((width, height), resampling), dtype=np.float32)


def compressed(pixels: np.ndarray, quality: float, draw: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    subsampling = 2 if draw.random() < 0.8 else 0
    Image.fromarray(as_uint8(pixels)).save(buffer, "JPEG", quality=round(quality), subsampling=subsampling)
    return np.asarray(Image.open(buffer).convert("RGB"), dtype=np.float32)


def noised(pixels: np.ndarray, sigma: float, draw: np.random.Generator) -> np.ndarray:
    channels = 1 if draw.random() < 0.4 else 3
    return pixels + draw.normal(0, sigma, (*pixels.shape[:2], channels)).astype(np.float32)


def shot_noised(pixels: np.ndarray, strength: float, draw: np.random.Generator) -> np.ndarray:
    rate = np.clip(pixels, 0, 255) / 255 * 256
    return pixels + strength * 255 * (draw.poisson(rate) - rate) / 256


def draw_levels(draw: np.random.Generator) -> tuple[float, float, float]:
    """Blur, noise and JPEG quality, a third of the time of each level; sometimes nothing, or one fault alone."""
    blur, noise, quality = (draw.uniform(*ranges[draw.integers(3)]) for ranges in RANGES.values())
    kind = draw.random()
    alone = draw.integers(3) if kind < 0.3 else None
    if kind < 0.12 or alone not in (None, 0) or draw.random() < 0.12:
        blur = 0.0
    if kind < 0.12 or alone not in (None, 1) or draw.random() < 0.25:
        noise = 0.0
    if kind < 0.12 or alone not in (None, 2) or draw.random() < 0.2:
        quality = 100.0
    return blur, noise, quality


def degraded(picture: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, list[int], list[float]]:
    """A quarter of the picture (H, W, 3), uint8, with each fault's level, and its size in units of strong."""
    height, width = picture.shape[0] // 4, picture.shape[1] // 4
    blur, noise, quality = draw_levels(draw)
    pixels, twice = picture.astype(np.float32), draw.random() < 0.5
    scale, late_blur, early_noise, late_noise = 1.0, 0.0, 0.0, noise
    qualities = [quality]
    if twice:
        scale = draw.uniform(0.4, 1.0)
        late_blur = min(draw.uniform(0.2, 1.0), 4 * blur * scale * 0.8)
        if draw.random() < 0.5:
            share = draw.uniform(0, 0.9)
            early_noise, late_noise = 2 * noise * share, noise * math.sqrt(1 - share**2)
        qualities = [quality, draw.uniform(quality, 100)][:: 1 if draw.random() < 0.5 else -1]
    early_blur = math.sqrt(max((4 * blur) ** 2 - (late_blur / scale) ** 2, 0))
    if early_blur > 0.05:
        ratio = math.exp(draw.uniform(-0.7, 0.7))
        sigma = early_blur * math.sqrt(2 / (1 + ratio**2))
        pixels = blurred(pixels, max(sigma, 0.05), max(sigma * ratio, 0.05), draw.uniform(0, math.pi))
    if twice:
        size = max(height, int(4 * height * scale)), max(width, int(4 * width * scale))
        pixels = resized(pixels, *size, FILTERS[draw.integers(3)])
        if early_noise > 0:
            gaussian = draw.random() < 0.6
            pixels = noised(pixels, early_noise, draw) if gaussian else shot_noised(pixels, early_noise / 12, draw)
        if quality < 100:
            pixels = compressed(pixels, qualities[0], draw)
        if late_blur > 0.05:
            pixels = blurred(as_uint8(pixels).astype(np.float32), late_blur, late_blur, 0.0)
    pixels = resized(pixels, height, width, FILTERS[draw.integers(3)])
    if late_noise > 0.05:
        pixels = noised(pixels, late_noise, draw)
    if quality < 100:
        pixels = compressed(pixels, qualities[-1], draw)
    result = Degraded(as_uint8(pixels), blur=blur, noise=noise, jpeg_quality=min(map(round, qualities)))
    told, sizes = levels(result), [blur / 0.45, math.sqrt(noise) / 1.5, (100 - result.jpeg_quality) / 25]
    return result.image, [ORDER.index(getattr(told, fault)) for fault in FAULTS], [min(size, 3) for size in sizes]


def make_pairs(
    photos: list[Path], count: int, draw: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Degraded pictures (N, 96, 96, 3) uint8, and levels (N, 3) and sizes (N, 3) of their faults."""
    pictures = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    truth, sizes = np.zeros((count, 3), np.int64), np.zeros((count, 3), np.float32)
    for index in range(count):
        path = photos[draw.integers(len(photos))]
        photo = cv2.imread(str(path))
        if photo is None:
            raise SystemExit(f"train_describer: {path} cannot be read; run scripts/fetch_photos.py again")
        picture = cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
        if draw.random() < 0.2 and min(picture.shape[:2]) * 0.75 >= 4 * SIDE:
            picture = cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        below, beside = (max(4 * SIDE - side, 0) for side in picture.shape[:2])
        picture = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REFLECT_101)
        top, left = (draw.integers(side - 4 * SIDE + 1) for side in picture.shape[:2])
        window = picture[top : top + 4 * SIDE, left : left + 4 * SIDE]
        pictures[index], truth[index], sizes[index] = degraded(window, draw)
    return torch.from_numpy(pictures), torch.from_numpy(truth), torch.from_numpy(sizes)


def train(
    network: LevelsNetwork, pictures: torch.Tensor, truth: torch.Tensor, sizes: torch.Tensor, args: argparse.Namespace
) -> LevelsNetwork:
    """Trains on the levels, and on the sizes, which say more than levels do, by a head that is not kept."""
    network, generator = network.train(), torch.Generator().manual_seed(args.seed)
    measure = nn.Sequential(nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, len(FAULTS)))
    optimizer = torch.optim.AdamW([*network.parameters(), *measure.parameters()], weight_decay=1e-2)
    # fewer are strong than clean, and a missed fault is no better than an imagined one
    balance = [((truth < bound).sum(0) / (truth >= bound).sum(0)) ** 0.3 for bound in (1, 2)]
    weights, start, step, mean = torch.stack(balance, 1), time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1, (step + 1) / 200) * (1 + math.cos(math.pi * done)) / 2 + 1e-5
        chosen = torch.randint(len(pictures), (BATCH,), generator=generator)
        aligned = torch.rand((), generator=generator) < 0.8  # with JPEG's blocks
        stride = 8 if aligned else 1
        top, left = (stride * torch.randint((SIDE - CROP) // stride + 1, (2,), generator=generator)).tolist()
        pixels = pictures[chosen, top : top + CROP, left : left + CROP].permute(0, 3, 1, 2).float() / 255
        turn = torch.rand(3, generator=generator) < 0.5
        pixels = pixels.transpose(2, 3) if turn[0] else pixels
        pixels = pixels.flip([dim for dim in (2, 3) if turn[dim - 1]])
        target = torch.stack([truth[chosen] >= 1, truth[chosen] >= 2], 2).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            features = network.features(pixels.contiguous(memory_format=torch.channels_last))
            logits, measured = network.head(features).float(), measure(features).float()
        loss = F.binary_cross_entropy_with_logits(logits.unflatten(1, (len(FAULTS), 2)), target, pos_weight=weights)
        loss = loss + F.smooth_l1_loss(measured, sizes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, mean = step + 1, 0.98 * mean + 0.02 * loss.item()
        if step % 200 == 0:
            print(f"step {step}, {100 * done:.0f} %, loss {mean:.3f}", flush=True)
    return network.eval()


@torch.no_grad()
def set_thresholds(network: LevelsNetwork, pairs: Path) -> None:
    """Shifts the logits so that the most levels of pictures come out right, each on its own."""
    entries = [json.loads(line) for line in (pairs / "manifest.jsonl").read_text().splitlines()]
    found, truth = [], []
    for entry in entries:
        crops = native_crops(read_image(pairs / entry["lr"]).pixels)
        found.append(torch.stack([network(crop[None])[0] for crop in crops]).mean(0))
        truth.append([ORDER.index(entry["levels"][fault]) for fault in FAULTS])
    logits, levels_ = torch.stack(found), torch.tensor(truth)
    shifts, bias = torch.linspace(-4, 4, 161), network.get_parameter("head.3.bias")
    for fault in range(len(FAULTS)):
        for bound in range(2):
            is_worse = levels_[:, fault] > bound
            right = ((logits[:, fault, bound, None] + shifts > 0) == is_worse[:, None]).float().mean(0)
            shift = shifts[(right - 1e-3 * shifts.abs()).argmax()]  # of equals the least
            bias[2 * fault + bound] += shift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60, help="of training; making the pictures takes 10 more")
    parser.add_argument("--pictures", type=int, default=32000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, metavar="FILE", help="a network to go on from")
    parser.add_argument("--thresholds", type=Path, metavar="PAIRS", help="pairs by which thresholds are set")
    parser.add_argument("--bf16", action="store_true", help="computes in bfloat16, where the processor is fast in it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    photos = [
        photo.path for photo in list_photos(DataConfig(hr_dir=args.photos, manifest=args.manifest, exclude=NOT_SHOWN))
    ]
    torch.manual_seed(args.seed)
    network = LevelsNetwork()
    if args.start is not None:
        network.load_state_dict(load_file(args.start))
    pictures, truth, sizes = make_pairs(photos, args.pictures, np.random.default_rng(args.seed))
    network = train(network, pictures, truth, sizes, args)
    if args.thresholds is not None:
        set_thresholds(network, args.thresholds)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, args.out)


if __name__ == "__main__":
    main()
