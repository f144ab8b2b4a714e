"""What training reads: samples, and batches of them with both texts as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from xpsr.prior import Prior

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Batch", "Collate", "Sample"]


@dataclass(frozen=True)
class Sample:
    """One pair: `hr` uint8 (3, S, S), `lr` uint8 (3, S/scale, S/scale), both RGB, and what is said of them.

    Where `is_clean`, the condition is to be `hr` itself, and the quality text is that of `hr`. `index` is its number.
    `teacher`, like `hr`, is what another method made of `lr`.
    """

    hr: torch.Tensor
    lr: torch.Tensor
    prior: Prior
    index: int
    is_clean: bool = False
    teacher: torch.Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Samples stacked.

    Attributes:
        hr: (B, 3, S, S) float32 in [0, 1].
        lr: (B, 3, S/scale, S/scale) float32 in [0, 1].
        content_ids: int64 (B, N), token ids of what is in the pictures.
        quality_ids: int64 (B, N), token ids of what is wrong with the condition.
        is_clean: bool (B,), rows whose condition is `hr` itself.
        indices: int64 (B,), the numbers of the samples.
        teacher: (B, 3, S, S) float32 in [0, 1], what another method made of `lr`; of rows without one it is `hr`.
        has_teacher: bool (B,).
    """

    hr: torch.Tensor
    lr: torch.Tensor
    content_ids: torch.Tensor
    quality_ids: torch.Tensor
    is_clean: torch.Tensor
    indices: torch.Tensor
    teacher: torch.Tensor
    has_teacher: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """Returns the same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def pin_memory(self) -> "Batch":
        """Returns the same batch in pinned memory; the loader calls this."""
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))


class Collate:
    """Makes a `Batch` of samples; every text is cut or padded to the tokenizer's length."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Stacks samples and looks up the ids of their texts."""
        return Batch(
            hr=torch.stack([s.hr for s in samples]).float() / 255,
            lr=torch.stack([s.lr for s in samples]).float() / 255,
            content_ids=self._ids([s.prior.content for s in samples]),
            quality_ids=self._ids([s.prior.quality for s in samples]),
            is_clean=torch.tensor([s.is_clean for s in samples]),
            indices=torch.tensor([s.index for s in samples]),
            teacher=torch.stack([s.hr if s.teacher is None else s.teacher for s in samples]).float() / 255,
            has_teacher=torch.tensor([s.teacher is not None for s in samples]),
        )

    def _ids(self, texts: list[str]) -> torch.Tensor:
        return self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
