"""The weights that the adapters of several students change, in a process's memory once."""

from threading import Lock
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from msd_ray.networks.weights import StoredWeights

Tensors = dict[str, Tensor]


class SharedBase:
    """weights: a state dict, or the file that it is kept in."""

    def __init__(self, weights: Tensors | StoredWeights) -> None:
        self.weights = weights
        self._lock, self._on = Lock(), dict[torch.device, Tensors]()

    def on(self, device: torch.device | str) -> Tensors:
        """In float32 on that device, the same tensors each time. Raises CorruptError if the file is damaged."""
        where = torch.device(device)
        with self._lock:
            if where not in self._on:
                read = self.weights.read() if isinstance(self.weights, StoredWeights) else self.weights
                self._on[where] = {name: value.to(where, torch.float32) for name, value in read.items()}
            return self._on[where]


_BASES: WeakValueDictionary[str, SharedBase] = WeakValueDictionary()


def kept_base(stored: StoredWeights) -> SharedBase:
    """That of a file: the same object for the same bytes, as long as anybody has it."""
    return _BASES.setdefault(stored.manifest.files[stored.name].sha256, SharedBase(stored))
