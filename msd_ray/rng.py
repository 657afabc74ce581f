"""Random streams derived from what they are for, so that nothing depends on what ran before."""

import hashlib

import torch


def derived_seed(*path: int | str) -> int:
    """A 63-bit seed that depends on every part of `path`, in order."""
    digest = hashlib.blake2b(repr(path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(*path: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by `path`: the same path gives the same numbers on the same kind of device."""
    return torch.Generator(device).manual_seed(derived_seed(*path))
