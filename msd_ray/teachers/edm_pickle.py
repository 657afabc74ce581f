"""Reads the networks in EDM's `network-snapshot-*.pkl` without executing anything of them.

The file is a pickle of a dict whose `ema` is a network. Each object of the authors' classes is pickled as a call of
`torch_utils.persistence._reconstruct_persistent_obj` with its class's name, its attributes and the source code of its
module, which EDM executes. Here each of the few names that such a file needs stands for something that holds data;
every other name is refused.
"""

import io
import math
import mmap
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_ray.teachers.pickle_scan import scan

Array = NDArray[Any]
DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2")}
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
CLASS = "_reconstruct_persistent_obj"
DAMAGES: tuple[type[Exception], ...] = (
    *(pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError, RuntimeError),
    *(AssertionError, MemoryError, OverflowError, struct.error, OSError, RecursionError),
)
"""What a damaged or hostile file may raise while it is read."""


@dataclass
class Node:
    """An object of the authors' classes: its class's name and attributes."""

    name: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: Any) -> None:
        self.attributes = _dict(state)

    @property
    def arguments(self) -> dict[str, Any]:
        """What it was made with."""
        return _dict(self.attributes.get("_init_kwargs", {}))

    def child(self, name: str) -> "Node":
        found = _dict(self.attributes.get("_modules", {})).get(name)
        if not isinstance(found, Node):
            raise ValueError(f"its {self.name or 'network'} has no part `{name}`")
        return found

    def tensors(self) -> dict[str, tuple[str, Array]]:
        """By their names in a state dict, each with "_parameters" or "_buffers". Raises ValueError where a part
        is not as those of a network."""
        return dict(_tensors(self, "", set()))


def read_snapshot(path: Path) -> Node:
    """The averaged network. Its arrays are read-only. Raises one of `DAMAGES` where there is none, with the reason."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        scan(content, len(content))
        content.seek(0)
        held = _Unpickler(content).load()
    network = held.get("ema") if isinstance(held, dict) else None
    if not isinstance(network, Node):
        raise ValueError("it holds no network under `ema`")
    return network


def _tensors(node: Node, prefix: str, passed: set[int]) -> Iterator[tuple[str, tuple[str, Array]]]:
    if id(node) in passed:
        raise ValueError("a part of its network stands in it twice")
    passed.add(id(node))
    for kind in ("_parameters", "_buffers"):
        for name, value in _dict(node.attributes.get(kind, {})).items():
            if isinstance(value, np.ndarray):
                yield f"{prefix}{name}", (kind, value)
            elif value is not None:
                raise ValueError(f"{prefix}{name} is not a tensor")
    for name, child in _dict(node.attributes.get("_modules", {})).items():
        if isinstance(child, Node):
            yield from _tensors(child, f"{prefix}{name}.", passed)


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it holds something else where a network has a dict")
    return value


class _Unpickler(pickle.Unpickler):
    """Knows the names of a snapshot, and no other."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._known = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise ValueError(f"it asks for {module}.{name}, which a network's weights do not need; nothing was run")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("it refers to something outside of itself")


def _stand_ins() -> dict[tuple[str, str], Any]:
    """Made anew for each file, so that none can leave anything in them."""

    class Module(Node):
        pass

    class EasyDict(dict[str, Any]):
        def __init__(self) -> None:
            super().__init__()

    class Dtype:
        def __init__(self, *_: Any) -> None: ...

        def __setstate__(self, state: Any) -> None: ...

    calls: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch_utils.persistence", CLASS): lambda meta: _node(meta),
        ("collections", "OrderedDict"): lambda: {},
        ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *given: _view(*given),
        ("torch.storage", "_load_from_bytes"): lambda content: _storage(content),
        ("numpy.core.multiarray", "scalar"): lambda dtype, raw: None,
        ("numpy._core.multiarray", "scalar"): lambda dtype, raw: None,
    }
    return calls | {
        ("torch.nn.modules.container", "ModuleDict"): Module,
        ("dnnlib.util", "EasyDict"): EasyDict,
        ("numpy", "dtype"): Dtype,
    }


def _node(meta: Any) -> Node:
    if _dict(meta).get("type") != "class":
        raise ValueError("it holds something else than a class where a network is")
    return Node(str(meta["class_name"]), _dict(meta["state"]))


def _view(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> Array:
    """A tensor; torch itself would let it reach beyond its storage."""
    whole = all(type(number) is int and number >= 0 for number in (offset, *size))
    if not isinstance(storage, np.ndarray) or not whole or len(size) > 8:
        raise ValueError("one of its tensors is none")
    if tuple(stride) != tuple(math.prod(size[i + 1 :]) for i in range(len(size))):
        raise ValueError("one of its tensors does not lie in order")
    if offset + math.prod(size) > len(storage):
        raise ValueError("one of its tensors is larger than what is stored of it")
    return storage[offset : offset + math.prod(size)].reshape(size)


def _storage(content: Any) -> Array:
    """The numbers in torch's old format: five pickles, the number of numbers, and they themselves; without a copy."""
    if not isinstance(content, bytes):
        raise ValueError("one of its tensors is none")
    file = io.BytesIO(content)
    magic, protocol, _, kind, keys = (_old_format(file, len(content)) for _ in range(5))
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or len(keys) != 1:
        raise ValueError("one of its tensors is not stored as torch stores them")
    (count,) = struct.unpack("<q", file.read(8))
    dtype = DTYPES[kind]
    if count * dtype.itemsize != len(content) - file.tell():
        raise ValueError("one of its tensors has not the size that it says")
    return np.frombuffer(content, dtype, offset=file.tell())


def _old_format(file: io.BytesIO, size: int) -> Any:
    begin = file.tell()
    scan(file, size)
    file.seek(begin)
    return _StorageUnpickler(file).load()


class _StorageUnpickler(pickle.Unpickler):
    """Of the five pickles before a tensor's numbers, of which one names their type."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "torch" or name not in DTYPES:
            raise ValueError(f"one of its tensors asks for {module}.{name}; nothing was run")
        return name

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]
