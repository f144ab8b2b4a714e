"""Pictures of strangers, decoded in processes of their own within a server's limits."""

from xpsr.config import ServeConfig
from xpsr.image import Facts, Limits, Picture, decode_in_process, inspect_in_process

__all__ = ["decode", "inspect"]

_SECONDS = 20.0
"""That a picture may take to decode before it has a place in the queue."""

_BYTES = 64
"""That decoding a pixel may take: 12 of float32 in the end, and what decoders need on the way."""

_LEAST = 2**32
"""Bytes that decoding any picture may take."""


def inspect(content: bytes, config: ServeConfig, *, name: str, accept_truncated: bool) -> Facts:
    """Returns what a picture is, once it has been decoded; arguments and errors are those of `inspect_in_process`."""
    return inspect_in_process(
        content,
        name=name,
        limits=_limits(config),
        accept_truncated=accept_truncated,
        memory=_memory(config),
        seconds=_SECONDS,
    )


def decode(content: bytes, config: ServeConfig, *, accept_truncated: bool) -> Picture:
    """Returns a picture; arguments and errors are those of `decode_in_process`."""
    return decode_in_process(content, limits=_limits(config), accept_truncated=accept_truncated, memory=_memory(config))


def _limits(config: ServeConfig) -> Limits:
    return Limits(max_pixels=config.max_pixels, max_bytes=config.max_bytes)


def _memory(config: ServeConfig) -> int:
    return max(_LEAST, _BYTES * config.max_pixels)
