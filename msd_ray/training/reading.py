"""Real samples on their way to a trainer: kept on its device where they are few, else read ahead by a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from msd_ray.data import Samples, Split

HELD = 256 << 20
"""A split that takes so many bytes at most, as networks see it, is kept on the device."""
Asked = TypeVar("Asked")
Made = TypeVar("Made")


class Reader:
    """The samples of a split, by their numbers, on a device."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._split, self._device = split, device
        self._held = split.all().to(device) if split.bytes <= HELD else None

    def __len__(self) -> int:
        return len(self._split)

    @property
    def is_held(self) -> bool:
        """Whether all is on the device, so that nothing has to be read any more."""
        return self._held is not None

    @property
    def tensors(self) -> list[Tensor]:
        """What it keeps on the device."""
        return [self._held.x, self._held.condition] if self._held else []

    def take(self, numbers: Tensor, rng: torch.Generator) -> Samples:
        """numbers: [B], on the device. rng: asked only where the split is to be mirrored."""
        if self._held:
            taken = Samples(self._held.x[numbers], self._held.condition[numbers])
        else:
            taken = self._split.take(numbers).to(self._device)
        return self._mirrored(taken, rng) if self._split.flips else taken

    def _mirrored(self, samples: Samples, rng: torch.Generator) -> Samples:
        """Half of them left to right."""
        chosen = torch.rand(len(samples), 1, 1, 1, generator=rng, device=self._device) < 0.5
        return replace(samples, x=torch.where(chosen, samples.x.flip(-1), samples.x))


class Ahead(Generic[Asked, Made]):
    """Makes in a thread what will be asked for next, while whoever asked works on what it got. What is made must follow
    from what is asked for alone. What the thread raises is raised where it is asked for."""

    def __init__(self, make: Callable[[Asked], Made]) -> None:
        self._make, self._next = make, dict[str, tuple[Asked, Future[Made]]]()
        self._thread: ThreadPoolExecutor | None = None

    def get(self, kind: str, asked: Asked, following: Asked) -> Made:
        """following: what is most probably asked for next of this kind. At most one of each kind is made ahead."""
        known = self._next.pop(kind, None)
        made = known[1].result() if known and known[0] == asked else self._make(asked)
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next[kind] = following, self._thread.submit(self._make, following)
        return made

    def rest(self) -> None:
        """Forgets what was made ahead, and ends the thread until somebody asks again."""
        if self._thread:
            self._thread.shutdown(cancel_futures=True)
        self._thread, self._next = None, {}
