"""Texts as the networks read them: tokens in rows of the text encoder's length, and their embeddings."""

import threading
from collections.abc import Sequence

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from xpsr.config import Settings

__all__ = ["embed_texts", "token_rows"]

# Padding and truncation are states of a fast tokenizer, and it refuses two threads at once
_TOKENIZING = threading.Lock()


def token_rows(
    tokenizer: CLIPTokenizer, text: str, settings: Settings, *, places: int, suffix: str = ""
) -> list[list[int]]:
    """Returns the tokens of a text in one or more rows of `places`.

    Args:
        tokenizer: CLIP's.
        text: whitespace in front is dropped.
        settings: its `long_texts` and `reserve_suffix`.
        places: how many tokens the text encoder reads at once.
        suffix: said after the text.
    """
    text = " ".join([text.lstrip(), suffix] if suffix else [text.lstrip()])
    first, *body, last = _tokens(tokenizer, text)  # <start> in front and <end> behind
    room = places - 2
    if settings.long_texts == "cut" and len(body) > room:
        kept = _tokens(tokenizer, suffix)[1:-1][-room:] if suffix and settings.reserve_suffix else []
        body = body[: room - len(kept)] + kept
    rows = [[first, *body[start : start + room], last] for start in range(0, max(len(body), 1), room)]
    return [row + [tokenizer.pad_token_id] * (places - len(row)) for row in rows]


def embed_texts(
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    texts: Sequence[tuple[str, str]],
    settings: Settings,
    *,
    device: torch.device,
) -> torch.Tensor:
    """Returns the embeddings (B, rows * N, D) of B texts, each with a suffix; empty rows make them even."""
    places = encoder.config.max_position_embeddings
    rows = [token_rows(tokenizer, text, settings, places=places, suffix=suffix) for text, suffix in texts]
    empty, most = token_rows(tokenizer, "", settings, places=places), max(map(len, rows))
    ids = torch.tensor([row + empty * (most - len(row)) for row in rows], device=device)
    embeddings = encoder(ids.flatten(0, 1))[0]
    return embeddings.unflatten(0, (len(texts), most)).flatten(1, 2)  # (B * rows, N, D) -> (B, rows * N, D)


def _tokens(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    with _TOKENIZING:
        tokens: list[int] = tokenizer(text, verbose=False).input_ids
    return tokens
