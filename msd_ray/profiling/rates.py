"""How fast operations that are only counted would be done: as given, or as the largest of them are done here."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from msd_ray.networks import DenoiserSpec
from msd_ray.profiling.clocks import Clock
from msd_ray.profiling.tally import Tally, without_data
from msd_ray.runs.plan import Plan
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.device import prepare_device
from msd_ray.training.state import State

START = 3.4
"""CPU seconds in which a process starts, where none was started to see (two CPUs, torch 2.13)."""
BUDGET = 4e9
"""Floating-point operations of the largest product that is timed, or of one image."""
TIMED, LARGEST, REPEATS = 8, 256 * 2**20, 3
"""How many operations of a kind are timed, how many bytes each may take, and how often it is done."""
SAMPLE = 64 * 2**20
"""Bytes of the checkpoint that is written to see how long it takes."""


@dataclass(frozen=True)
class Rates:
    """Per second of a student's device: floating-point operations; bytes that other operations move; bytes of a
    checkpoint that are written or read. start: CPU seconds in which a process starts."""

    flops: float
    moved: float = math.inf
    written: float = math.inf
    start: float = START

    def seconds(self, tally: Tally) -> float:
        return tally.flops / self.flops + tally.moved / self.moved


COUNT_ONLY = Rates(math.inf)
"""Where no seconds are asked for: they are all 0."""


def given_rates(tflops: float) -> Rates:
    """tflops: 10^12 floating-point operations per second that whole updates reach, all other operations included."""
    return Rates(tflops * 1e12, written=_written(Clock(torch.device("cpu"), 1)))


def measure_rates(plan: Plan) -> Rates:
    """Of this machine's CPUs with the recipe's threads. To be called first thing in a process."""
    start, threads = time.process_time(), plan.recipe.training.threads
    clock = Clock(prepare_device(0, threads), threads)
    operations = _operations(plan.largest.denoiser, max(s.batch for s in plan.largest.stages.values()))
    products = sorted((o for o in operations if o.flops), key=lambda o: -o.flops * o.times)[:TIMED]
    others = sorted((o for o in operations if o.moved), key=lambda o: -o.moved * o.times)[:TIMED]
    return Rates(
        flops=_rate(products, lambda o: o.flops, clock),
        moved=_rate(others, lambda o: o.moved, clock),
        written=_written(clock),
        start=start,
    )


@dataclass
class _Operation:
    """act: with its arguments, of which the tensors have no data. times: that it is done in a pass."""

    act: Any
    args: tuple[Any, ...]
    given: dict[str, Any]
    flops: float
    moved: int
    times: int = 0


def _operations(spec: DenoiserSpec, most: int) -> list[_Operation]:
    """Those of a pass forward and backward that are small enough to be timed, on at most so many images."""
    found: dict[str, _Operation] = {}

    def note(act: Any, args: tuple[Any, ...], given: dict[str, Any], flops: float, moved: int) -> None:
        if sum(t.nbytes for t in tree_leaves((args, given)) if isinstance(t, Tensor)) <= LARGEST:
            key = f"{act} {tree_map(_shape, (args, given))}"
            found.setdefault(key, _Operation(act, args, given, flops, moved)).times += 1

    _pass(spec, 1, Tally(note))
    largest = max((o.flops for o in found.values()), default=1.0)
    found.clear()
    _pass(spec, max(1, min(most, int(BUDGET / max(largest, 1.0)))), Tally(note))
    return list(found.values())


def _pass(spec: DenoiserSpec, n: int, tally: Tally) -> None:
    with without_data(Tally()):
        denoiser, x = spec.build(), torch.zeros(n, *spec.sample_shape)
        with tally:
            denoiser(x, torch.ones(n), torch.zeros(n, dtype=torch.long)).square().sum().backward()


def _shape(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _rate(operations: list[_Operation], amount: Callable[[_Operation], float], clock: Clock) -> float:
    """Infinite where there are none."""
    seconds = sum(o.times * _seconds(o, clock) for o in operations)
    return sum(o.times * amount(o) for o in operations) / seconds if seconds else math.inf


def _seconds(operation: _Operation, clock: Clock) -> float:
    args, given = tree_map(_with_data, (operation.args, operation.given))
    operation.act(*args, **given)
    return median(clock.of(lambda: operation.act(*args, **given)) for _ in range(REPEATS))


def _with_data(leaf: Any) -> Any:
    """All ones, but for indices: 0 is one of anything."""
    if not isinstance(leaf, Tensor):
        return leaf
    fill = torch.ones if leaf.dtype.is_floating_point else torch.zeros
    return fill(leaf.shape, dtype=leaf.dtype)


def _written(clock: Clock) -> float:
    state = State({"sample": {"zeros": torch.zeros(SAMPLE // 4)}}, {"nimg": 1})
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Store(folder), keep=1)
        checkpoints.save(state)
        return SAMPLE / max(median(clock.of(lambda: checkpoints.save(state)) for _ in range(REPEATS)), 1e-9)
