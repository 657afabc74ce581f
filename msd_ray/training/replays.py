"""Passes of a network whose time on a GPU goes into launching its kernels, recorded once and replayed (CUDA graphs).

A replay runs the same kernels on the same numbers as the pass itself, and so gives the same bits."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.diffusion.denoiser import direct

_log = logging.getLogger(__name__)
_Inputs = tuple[Tensor, ...]
LAUNCHING = 0.7
"""Where launching its kernels takes more than this share of a pass, the GPU waits for it."""
WARM, MOST = 3, 8
"""Passes of a size before it is judged; sizes that are recorded."""


class Replays:
    """Calls a network, or replays what it did for inputs of this size. A copy begins without recordings.

    Replayed is what needs no gradient, draws nothing at random, and waits for its launches: that is measured in the
    first passes of a size. Recordings go once the weights lie elsewhere."""

    def __init__(self) -> None:
        self._seen: dict[Any, int] = {}
        self._recorded: dict[Any, Callable[[_Inputs], Tensor]] = {}
        self._weights: tuple[int, ...] = ()

    def __deepcopy__(self, _: Any) -> "Replays":
        return Replays()

    def __call__(self, network: nn.Module, *inputs: Tensor) -> Tensor:
        if not _replayable(network, inputs):
            return direct(network, *inputs)
        self._forget_other(network)
        size = tuple((t.shape, t.stride(), t.dtype) for t in inputs), torch.is_autocast_enabled(inputs[0].device.type)
        if size in self._recorded:
            return self._recorded[size](inputs)
        self._seen[size] = seen = self._seen.get(size, 0) + 1
        if seen != WARM or len(self._recorded) == MOST:
            return direct(network, *inputs)
        made, share = _timed(network, inputs)
        if share > LAUNCHING and (replay := recorded(network, inputs)):
            self._recorded[size] = replay
        return made

    def _forget_other(self, network: nn.Module) -> None:
        """Drops recordings of weights that lay elsewhere."""
        now = tuple(p.data_ptr() for p in network.parameters())
        if now != self._weights:
            self._seen, self._recorded, self._weights = {}, {}, now


def recorded(network: nn.Module, inputs: _Inputs) -> Callable[[_Inputs], Tensor] | None:
    """Runs the network on inputs of its own, and returns what does so again for others of their size; None for a
    network that cannot be recorded, since it reads a number on its way."""
    own, graph = [t.clone() for t in inputs], torch.cuda.CUDAGraph()
    try:
        with torch.no_grad(), _no_waiting():  # a recording that fails would leave torch's random state unusable
            direct(network, *own)
    except RuntimeError as error:
        _log.info("%s is not replayed: %s", type(network).__name__, error)
        return None
    with torch.no_grad(), _no_kept_casts(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = direct(network, *own)

    def replay(inputs: _Inputs) -> Tensor:
        for mine, given in zip(own, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        return made.clone()

    return replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """In this block an operation that waits for the GPU raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _no_kept_casts() -> Iterator[None]:
    """In this block autocast rounds weights wherever they are used: what it has kept of them is freed at its end, and
    a replay would read it."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _replayable(network: nn.Module, inputs: _Inputs) -> bool:
    """Whether nobody wants a gradient and nothing is random."""
    if not inputs[0].is_cuda or network.training or torch.cuda.is_current_stream_capturing():
        return False
    return not torch.is_grad_enabled() or not any(t.requires_grad for t in chain(inputs, network.parameters()))


def _timed(network: nn.Module, inputs: _Inputs) -> tuple[Tensor, float]:
    """What the network makes, and the share of its time until all of its kernels were launched."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    made = direct(network, *inputs)
    launched = time.perf_counter()
    torch.cuda.synchronize()
    return made, (launched - start) / (time.perf_counter() - start)
