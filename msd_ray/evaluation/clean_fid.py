"""clean-fid (Parmar et al., arXiv 2104.11222) without torchvision.

clean-fid imports torchvision for classes that nothing here calls. The torchvision on PyPI cannot be loaded beside a
torch built for CPUs, so where there is none that works, an empty one stands in for as long as the import takes.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch


@cache
def clean_fid(module: str = "fid") -> Any:
    """The module `cleanfid.<module>`: fid, resize, inception_torchscript or downloads_helper."""
    if _works("torchvision"):
        return importlib.import_module(f"cleanfid.{module}")
    with _standing_in():
        return importlib.import_module(f"cleanfid.{module}")


def _works(package: str) -> bool:
    try:
        importlib.import_module(package)
    except Exception:  # a torchvision built for another torch fails with RuntimeError or OSError
        _forget(package)
        return False
    return True


@contextmanager
def _standing_in() -> Iterator[None]:
    """A torchvision in sys.modules with what clean-fid subclasses. It must not stay: other libraries probe for it."""
    torchvision, models, inception = (
        ModuleType(name) for name in ("torchvision", "torchvision.models", "torchvision.models.inception")
    )
    for block in ("InceptionA", "InceptionC", "InceptionE"):
        setattr(inception, block, type(block, (torch.nn.Module,), {}))
    vars(torchvision)["models"] = models
    vars(models)["inception"] = inception
    sys.modules |= {module.__name__: module for module in (torchvision, models, inception)}
    try:
        yield
    finally:
        _forget("torchvision")


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
