"""Reading the golden vectors."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Vectors:
    """The arrays of a file whose names begin with `prefix`, as tensors."""

    def __init__(self, name: str, prefix: str = "") -> None:
        self._arrays, self._prefix = np.load(Path(__file__).parent / f"{name}.npz"), prefix

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._arrays[self._prefix + name])

    def has(self, name: str) -> bool:
        return self._prefix + name in self._arrays.files

    def names(self, prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in self._arrays.files if name.startswith(prefix)]

    def json(self, name: str) -> Any:
        return json.loads(str(self._arrays[self._prefix + name]))

    def weights(self) -> dict[str, Tensor]:
        """Under their official names: stored, or each drawn from a stream seeded by its name."""
        if "rule" in self._arrays.files:
            return dict(self._drawn())
        return {name: self[f"state/{name}"] for name in self.names("state/")}

    def _drawn(self) -> Iterator[tuple[str, Tensor]]:
        for name, shape, centre, bound in self.json("rule"):
            u = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)
            yield name, torch.from_numpy((centre + bound * (2 * u - 1)).astype(np.float32))


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-9) -> None:
    """Equal up to rounding, on the scale of each sample."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    for a, b in zip(torch.atleast_1d(ours), torch.atleast_1d(theirs), strict=True):
        assert (a - b).abs().max() <= rtol * b.abs().max(), ((a - b).abs().max() / b.abs().max()).item()
