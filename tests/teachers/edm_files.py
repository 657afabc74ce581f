"""Writes files as EDM does, with the authors' names for what is in them, for the reader to be tested on."""

import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from tests.golden.vectors import Vectors

SOURCE = "raise SystemExit('the source code in the file was executed')"
SETTINGS = {"EDM": {"sigma_data": 0.5}, "VP": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000}}


class Persistent:
    """Pickled as a call of the authors' function, with the attributes as they have them."""

    def __init__(self, name: str, **state: Any) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": name, "state": state}

    def __reduce__(self) -> Any:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@contextmanager
def authors_module() -> Iterator[None]:
    """Pickle looks whether a function is where it says that it is."""

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("called")

    made = ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__ = made.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    made._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules[made.__name__], sys.modules["torch_utils"] = made, ModuleType("torch_utils")
    try:
        yield
    finally:
        del sys.modules[made.__name__], sys.modules["torch_utils"]


def write(path: Path, content: Any) -> Path:
    with authors_module():
        path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def snapshot(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    """What the authors' code keeps of the golden network of that name under a preconditioner. changes: of the arguments
    that it was made with."""
    v = Vectors(name)
    config = v.json("config") | changes
    weights = v.weights() | {name: v[f"state/{name}"] for name in v.names("state/")}
    arguments = {key: value for key, value in config.items() if key != "model_type"}
    model = _module(config["model_type"], weights, "model.", {"_init_kwargs": arguments})
    settings = SETTINGS.get(kind, {})
    top = Persistent(
        f"{kind}Precond",
        _init_args=(),
        _init_kwargs=config | settings,
        _parameters={},
        _buffers={"u": weights["u"]} if kind == "iDDPM" else {},
        _modules={"model": model},
        use_fp16=False,
        **{"img_resolution": config["img_resolution"], "label_dim": config["label_dim"], **settings},
    )
    loss = Persistent("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5)
    return {"ema": top, "loss_fn": loss, "augment_pipe": None, "dataset_kwargs": {"path": "cifar10.zip"}}


def _module(kind: str, weights: Mapping[str, Tensor], prefix: str, state: dict[str, Any]) -> Any:
    below = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    parts = {name: f"{prefix}{name}." for name in dict.fromkeys(n.split(".")[0] for n in below if "." in n)}
    own = {name: value for name, value in below.items() if "." not in name}
    buffers = {name: value for name, value in own.items() if name in ("resample_filter", "freqs")}
    modules = {name: _module("Part", weights, below, {}) for name, below in parts.items()}
    if prefix in ("model.enc.", "model.dec."):
        return _in_order(modules)
    return Persistent(
        kind,
        _parameters={name: nn.Parameter(value, False) for name, value in own.items() if name not in buffers},
        _buffers=buffers,
        _modules=modules,
        skip_scale=np.sqrt(0.5),
        **{"_init_args": (), "_init_kwargs": {}, **state},
    )


def _in_order(modules: dict[str, Any]) -> nn.ModuleDict:
    """One of torch's, which the authors' networks have twice."""
    made = nn.ModuleDict()
    vars(made)["_modules"] = modules
    return made
