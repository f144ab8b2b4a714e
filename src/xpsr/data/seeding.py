"""Seeding: a generator for every purpose, and scalars drawn from it."""

import hashlib

import torch

__all__ = ["chance", "generator_for", "randint", "uniform"]


def generator_for(*keys: int | str) -> torch.Generator:
    """Returns a CPU generator of its own for every combination of keys.

    torch seeds its CPU generator with the low 32 bits of what it is given, so keys are hashed, not shifted together.
    """
    joined = ",".join(map(str, keys)).encode(errors="surrogateescape")  # names of files need not be UTF-8
    digest = hashlib.blake2b(joined, digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def uniform(generator: torch.Generator) -> float:
    """Draws a float32 in [0, 1)."""
    return torch.rand((), generator=generator).item()


def chance(probability: float, generator: torch.Generator) -> bool:
    """Draws True with that probability."""
    return uniform(generator) < probability


def randint(stop: int, generator: torch.Generator) -> int:
    """Draws an integer in [0, stop)."""
    return int(torch.randint(stop, (), generator=generator))
