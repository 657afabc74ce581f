"""Tensors as safetensors bytes: a format that is read without executing anything."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from msd_ray.errors import CorruptError


def to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """The tensors, from whichever device, as one safetensors file."""
    return save(_separate(tensors))


def from_bytes(data: bytes, where: str) -> dict[str, Tensor]:
    """The inverse of `to_bytes`, on the CPU; verify the hash of `data` first.

    Raises CorruptError, which names `where` the bytes came from, if they are no safetensors file.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CorruptError(f"{where} is not a safetensors file ({reason}); restore it from a copy") from error


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, cloned where two share memory, which safetensors cannot express."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to(torch.device("cpu")).contiguous()
        storage = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return separate
