"""Tensors as a safetensors file: a format that is read without executing anything.

The file is 8 bytes that say how long its header is, the header (JSON: each tensor's dtype, shape and place), and the
tensors. Both directions go through a file piece by piece, so that no more is held than the tensors themselves.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from msd_ray.errors import CorruptError, one_line
from msd_ray.storage import CHUNK, Chunks, Manifest, Store, read_chunks

_DTYPES = {  # in the order in which a file has them
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER = {dtype: number for number, dtype in enumerate(_DTYPES.values())}


@dataclass(frozen=True)
class StoredWeights:
    """Tensors in a file of a bundle, not read yet."""

    store: Store
    manifest: Manifest
    name: str

    def read(self) -> dict[str, Tensor]:
        """The tensors, on the CPU. Raises CorruptError where the file is missing or changed."""
        chunks = read_chunks(self.store, self.manifest, self.name)
        return from_chunks(chunks, f"{self.store.uri}/{self.name}")

    @property
    def chunks(self) -> Chunks:
        """The file as it is, to be copied; verified on the way."""
        return partial(read_chunks, self.store, self.manifest, self.name)


def to_chunks(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The tensors, from whichever device, as the bytes that `safetensors.torch.save` makes of them."""
    ordered = sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))
    yield _header(ordered)
    small = bytearray()  # a small student has a thousand tensors: they go in one piece
    for _, tensor in ordered:
        content = _bytes_of(tensor.detach().cpu().contiguous())
        if len(content) < CHUNK:
            small += content
        if small and (len(small) >= CHUNK or len(content) >= CHUNK):
            yield bytes(small)
            small.clear()
        if len(content) >= CHUNK:
            yield from (content[begin : begin + CHUNK] for begin in range(0, len(content), CHUNK))
    yield bytes(small)


def from_chunks(chunks: Iterable[bytes], where: str) -> dict[str, Tensor]:
    """The inverse of `to_chunks`, on the CPU; the tensors share no memory.

    Reads `chunks` to their end and passes on what they raise, such as that their hash is wrong. Raises CorruptError,
    which names `where` they came from, if they are no safetensors file.
    """
    source = _TensorBytes(chunks)
    try:
        tensors = _read(source)
        rest = source.drain()
        if rest:
            raise ValueError(f"{rest} bytes too many")
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        source.drain()
        reason = one_line(error)
        raise CorruptError(f"{where} is not a safetensors file ({reason}); restore it from a copy") from error
    return tensors


class _TensorBytes:
    """Reads from chunks as from a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._left = iter(chunks), memoryview(b"")

    def take(self, n: int) -> bytes:
        """n bytes. Raises ValueError where there are fewer."""
        pieces = list(self._pieces(n))
        return b"".join(pieces)

    def fill(self, target: memoryview) -> None:
        at = 0
        for piece in self._pieces(len(target)):
            target[at : at + len(piece)] = piece
            at += len(piece)

    def drain(self) -> int:
        """Reads what is left, and says how much it was."""
        left, self._left = len(self._left), memoryview(b"")
        return left + sum(len(chunk) for chunk in self._chunks)

    def _pieces(self, n: int) -> Iterator[memoryview]:
        while n:
            self._left = self._left or memoryview(next(self._chunks, b""))
            if not self._left:
                raise ValueError(f"it ends {n} bytes early")
            piece, self._left = self._left[:n], self._left[n:]
            n -= len(piece)
            yield piece


def _header(tensors: list[tuple[str, Tensor]]) -> bytes:
    entries, begin = {}, 0
    for name, tensor in tensors:
        end = begin + tensor.nbytes
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read(source: _TensorBytes) -> dict[str, Tensor]:
    header: dict[str, Any] = json.loads(source.take(int.from_bytes(source.take(8), "little")))
    header.pop("__metadata__", None)
    places = sorted(header, key=lambda name: header[name]["data_offsets"])
    offsets = [header[name]["data_offsets"] for name in places]
    if any(end != begin for (_, end), (begin, _) in pairwise([(0, 0), *offsets])):
        raise ValueError("its tensors do not lie one after the other")
    return {name: _filled(source, header[name]) for name in places}


def _filled(source: _TensorBytes, entry: dict[str, Any]) -> Tensor:
    (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], _DTYPES[entry["dtype"]]
    if torch.Size(shape).numel() * dtype.itemsize != end - begin:
        raise ValueError("the size of a tensor is not that of its place")
    tensor = torch.empty(shape, dtype=dtype)
    source.fill(_bytes_of(tensor))
    return tensor


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    if not tensor.numel():
        return memoryview(b"")  # torch cannot view an empty tensor as bytes
    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
