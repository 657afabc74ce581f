"""Reads the networks in EDM's `network-snapshot-*.pkl` without executing anything of them.

The file is a pickle of a dict whose `ema` is a network. Each object of the authors' classes is pickled as a call of
`torch_utils.persistence._reconstruct_persistent_obj` with its class's name, its attributes and the source code of its
module, which EDM executes.
"""

import io
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msd_ray.teachers.safe_pickle import DTYPES, STORAGES, Array, Known, load, tensors

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


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
        held = load(content, len(content), _stand_ins(), _outside)
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


def _outside(pid: Any) -> Any:
    raise ValueError("it refers to something outside of itself")


def _stand_ins() -> Known:
    """Made anew for each file, so that none can leave anything in them."""

    class Module(Node):
        pass

    class EasyDict(dict[str, Any]):
        def __init__(self) -> None:
            super().__init__()

    class Dtype:
        def __init__(self, *_: Any) -> None: ...

        def __setstate__(self, state: Any) -> None: ...

    return tensors() | {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): lambda meta: _node(meta),
        ("torch.storage", "_load_from_bytes"): lambda content: _storage(content),
        ("numpy.core.multiarray", "scalar"): lambda dtype, raw: None,
        ("numpy._core.multiarray", "scalar"): lambda dtype, raw: None,
        ("torch.nn.modules.container", "ModuleDict"): Module,
        ("dnnlib.util", "EasyDict"): EasyDict,
        ("numpy", "dtype"): Dtype,
    }


def _node(meta: Any) -> Node:
    if _dict(meta).get("type") != "class":
        raise ValueError("it holds something else than a class where a network is")
    return Node(str(meta["class_name"]), _dict(meta["state"]))


def _storage(content: Any) -> Array:
    """The numbers in torch's old format: five pickles, the number of numbers, and they themselves; without a copy."""
    if not isinstance(content, bytes):
        raise ValueError("one of its tensors is none")
    file = io.BytesIO(content)
    magic, protocol, _, kind, keys = (load(file, len(content), STORAGES, lambda pid: pid[1]) for _ in range(5))
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or len(keys) != 1:
        raise ValueError("one of its tensors is not stored as torch stores them")
    (count,), dtype = struct.unpack("<q", file.read(8)), DTYPES[kind]
    if count * dtype.itemsize != len(content) - file.tell():
        raise ValueError("one of its tensors has not the size that it says")
    return np.frombuffer(content, dtype, offset=file.tell())
