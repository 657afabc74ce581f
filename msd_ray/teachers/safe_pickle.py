"""Pickles of weights, read without executing anything of them, and without more memory than they have bytes.

`pickle.Unpickler` calls what a pickle names, so it is given a table of the few names that weights need, each of which
stands for something that only holds data. It allocates what a length or an index claims, whatever the file holds, so
each instruction is looked at before. torch lets a tensor reach beyond its storage, so tensors are made here.
"""

import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_ray.errors import MsdRayError

Array = NDArray[Any]
Known = dict[tuple[str, str], Any]
DAMAGES: tuple[type[Exception], ...] = (
    *(pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError, RuntimeError),
    *(AssertionError, MemoryError, OverflowError, struct.error, OSError, RecursionError, zipfile.BadZipFile),
    MsdRayError,
)
"""What a damaged or hostile file may raise while it is read."""
DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2")}
STORAGES: Known = {("torch", name): name for name in DTYPES}
_NEEDED = """
PROTO FRAME STOP MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT DICT SETITEM
SETITEMS EMPTY_SET ADDITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID MEMOIZE BINPUT LONG_BINPUT BINGET
LONG_BINGET
"""
_ALLOWED = frozenset(_NEEDED.split())
_INDICES = ("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET")
_MOST = 1_000_000  # instructions; a published network has some 100,000


def load(file: Any, size: int, known: Known, stored: Callable[[Any], Any]) -> Any:
    """What the next pickle in a file object of so many bytes holds; leaves the file behind it. known: what stands for
    each name. stored: makes what a persistent id stands for. Raises one of `DAMAGES`, with the reason."""
    begin = file.tell()
    _scan(file, size)
    file.seek(begin)
    return _Unpickler(file, known, stored).load()


def _scan(file: Any, size: int) -> None:
    argument: Any
    for seen, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name not in _ALLOWED:
            raise ValueError(f"it has the instruction {opcode.name}, which weights do not need; nothing was run")
        if seen > _MOST or (opcode.name in _INDICES and argument > seen):
            raise ValueError("it makes more objects than a network has")
        if opcode.name == "FRAME" and argument > size:
            raise ValueError("it ends early")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, known: Known, stored: Callable[[Any], Any]) -> None:
        super().__init__(file)
        self._known, self._stored = known, stored

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise ValueError(f"it asks for {module}.{name}, which weights do not need; nothing was run")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return self._stored(pid)


def tensors() -> Known:
    """What torch's tensors are pickled with. Made anew for each file, so that none can leave anything in it."""
    return {
        ("collections", "OrderedDict"): lambda: {},
        ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *given: _view(*given),
    }


def _view(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> Array:
    whole = all(type(number) is int and number >= 0 for number in (offset, *size))
    if not isinstance(storage, np.ndarray) or not whole or len(size) > 8:
        raise ValueError("one of its tensors is none")
    if tuple(stride) != tuple(math.prod(size[i + 1 :]) for i in range(len(size))):
        raise ValueError("one of its tensors does not lie in order")
    if offset + math.prod(size) > len(storage):
        raise ValueError("one of its tensors is larger than what is stored of it")
    return storage[offset : offset + math.prod(size)].reshape(size)
