"""Tensors as safetensors bytes: a format that is read without executing anything."""

from safetensors import SafetensorError, TensorSpec, serialize
from safetensors.torch import load
from torch import Tensor

from msd_ray.errors import CorruptError


def to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """The tensors, from whichever device, as one safetensors file.

    `safetensors.torch.save` makes the same bytes, but takes 0.1 ms for each tensor, of which a checkpoint of a small
    student has more than a thousand.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(serialize({name: _spec(tensor) for name, tensor in plain.items()}))


def _spec(tensor: Tensor) -> TensorSpec:
    """Where a tensor lies; it has to outlive this."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(dtype=dtype, shape=tuple(tensor.shape), data_ptr=tensor.data_ptr(), data_len=tensor.nbytes)


def from_bytes(data: bytes, where: str) -> dict[str, Tensor]:
    """The inverse of `to_bytes`, on the CPU; verify the hash of `data` first.

    Raises CorruptError, which names `where` the bytes came from, if they are no safetensors file.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CorruptError(f"{where} is not a safetensors file ({reason}); restore it from a copy") from error
