"""How a replica's samples share evaluations. It finds out when it has loaded its students, on its own machine."""

import random
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_ray.conditions import Condition, Embedded
from msd_ray.ensemble import Mode, Part, SampleId
from msd_ray.ensemble.positions import MOST
from msd_ray.errors import MsdRayError
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.engine import INSTEAD, use_engine
from msd_ray.training.device import free_memory

ROUNDS = 4
ENOUGH = 1.05
"""Of the least time per sample: the smallest evaluation that takes no more is large enough."""
SLACK = 4.0
"""By how much a bound is larger than the largest difference that was seen."""
COMPARED, REPEATS = 16, 3
TOLERANCE = 1e-3
"""Of the largest value: an engine in fp32 that differs by more does not only round otherwise."""


@dataclass(frozen=True)
class Batching:
    """mode: what is promised. sizes: of evaluations, rising: each takes the first that has room. free: whether a
    sample may have any position, not only its own. bound: by how much a value may differ from `generate`'s."""

    mode: Mode
    sizes: tuple[int, ...]
    free: bool = True
    bound: float = 0.0

    @property
    def most(self) -> int:
        return self.sizes[-1]

    def size_for(self, samples: int) -> int:
        """Of an evaluation of so many. Samples at positions of their own always have the same size."""
        return next(size for size in self.sizes if size >= samples)


def batching_for(part: Part, condition: Condition | Embedded, config: StudentConfig) -> Batching:
    """condition: one that the part owns. To be called where the part will be evaluated: bits depend on threads. The
    part then computes in the precision, and by the engine, of the configuration.

    Raises UserError where a library is missing, MsdRayError where the engine does not take a network or makes other
    samples of it."""
    rounds = part.device.type == "cuda" or config.precision == "bf16" or config.engine != "torch"
    promised = "batched" if rounds else part.batching
    if (promised if config.batching == "auto" else config.batching) == "exact":
        return exact(part, condition)
    most, seconds = config.batch or MOST, config.evaluation_ms / 1000
    right = _alone(part, condition, min(COMPARED, most), seconds)
    if config.precision == "bf16":
        part.compute_in_bf16()
    if config.engine == "torch":
        return batched(part, condition, most, seconds, right)
    use_engine(part, config)
    found = batched(part, condition, most, seconds, right, warm=True)
    _refuse_others(found, right, config)
    powers = tuple(2**i for i in range(found.most.bit_length()))  # the sizes that were tried, and so compiled
    return replace(found, sizes=powers) if config.engine == "compile" else found


def _refuse_others(found: Batching, right: Tensor, config: StudentConfig) -> None:
    """Raises MsdRayError where an engine in fp32 makes samples that differ by more than rounding errors."""
    differ = found.bound / SLACK / max(1.0, float(right.abs().max()))
    if config.precision == "fp32" and not differ <= TOLERANCE:
        said = f"engine {config.engine} makes other images of this student than torch: they differ by {differ:.1e}"
        raise MsdRayError(f"{said}; {INSTEAD}")


def exact(part: Part, condition: Condition | Embedded) -> Batching:
    """The bits of `generate`: any position in evaluations of `batch_size`, and all smaller sizes that give the same."""
    if positions_show(part, condition):
        return Batching("exact", (part.batch_size,), free=False)
    sizes = [2**i for i in range(part.batch_size.bit_length())]
    return Batching("exact", tuple(size for size in sizes if size == part.batch_size or _same(part, condition, size)))


def positions_show(part: Part, condition: Condition | Embedded) -> bool:
    """Whether any sample of a test depends on its position in the batch. condition: one that the part owns.

    The test makes as many samples as there are positions, in five different orders: each sample is at five positions
    and each position has five samples. It takes five evaluations.
    """
    order, rng = list(range(part.batch_size)), random.Random(0)
    sample_ids, reference = _reference(part, condition)
    for _ in range(ROUNDS):
        rng.shuffle(order)
        if not torch.equal(part.evaluate(sample_ids, order, part.batch_size), reference):
            return True
    return False


def _reference(part: Part, condition: Condition | Embedded) -> tuple[list[SampleId], Tensor]:
    """As many samples as there are positions, made in order."""
    sample_ids: list[SampleId] = [(condition, seed) for seed in range(part.batch_size)]
    return sample_ids, part.evaluate(sample_ids, range(part.batch_size), part.batch_size)


def _same(part: Part, condition: Condition | Embedded, size: int) -> bool:
    """Whether evaluations of this size give the same bits: full ones, in which each position has several samples, and
    some with padding."""
    sample_ids, reference = _reference(part, condition)
    full = [range(begin, begin + size) for begin in range(0, part.batch_size, size)][:ROUNDS]
    for some in [*full, *(range(i, i + 1) for i in range(ROUNDS))]:
        chosen = [sample_ids[i] for i in some]
        if not torch.equal(part.evaluate(chosen, range(len(some)), size), reference[some.start : some.stop]):
            return False
    return True


def batched(
    part: Part, condition: Condition | Embedded, most: int, seconds: float, right: Tensor, warm: bool = False
) -> Batching:
    """Evaluations of any size up to the one where a larger one no longer pays, takes longer or needs more memory than
    there is. Finding out takes a few times `seconds`, or one sample's time if that is more. right: the first samples,
    as `generate` makes them. warm: whether the first evaluation of a size takes longer than the others."""
    sample_ids: list[SampleId] = [(condition, seed) for seed in range(most)]
    times, differences = dict[int, float](), dict[int, float]()
    for size, took, x in _growing(part, sample_ids, seconds, warm):
        compared = min(size, len(right))
        times[size], differences[size] = took / size, float((x[:compared] - right[:compared]).abs().max())
    largest = next(size for size, each in times.items() if each <= ENOUGH * min(times.values()))
    seen = max(each for size, each in differences.items() if size <= largest)
    return Batching("batched", tuple(range(1, largest + 1)), bound=SLACK * seen)


def _alone(part: Part, condition: Condition | Embedded, most: int, seconds: float) -> Tensor:
    """Samples as `generate` makes them: so many, or as many as that much time allows, and at least one."""
    made, begin = list[Tensor](), time.perf_counter()
    for seed in range(most):
        sample_id = condition, seed
        made.append(part.evaluate([sample_id], [part.position_of(sample_id)], part.batch_size)[0])
        if time.perf_counter() - begin > seconds:
            break
    return torch.stack(made)


def _growing(part: Part, sample_ids: list[SampleId], seconds: float, warm: bool) -> Iterator[tuple[int, float, Tensor]]:
    """Sizes of evaluations with the seconds and the samples of each. They double as long as time and memory allow."""
    before, size = _memory(part.device), 1
    while size <= len(sample_ids):
        if warm:
            part.evaluate(sample_ids[:size], range(size), size)
        took, x = _timed(part, sample_ids[:size], seconds / 4)
        yield size, took, x
        used = _memory(part.device) - before
        if 2 * took > seconds or 2 * used > free_memory(part.device):
            return
        size *= 2


def _timed(part: Part, sample_ids: list[SampleId], enough: float) -> tuple[float, Tensor]:
    """The least of several times, or the first that is long enough. On a CPU it is this thread's own time, in which it
    does not matter what else the machine does."""
    clock, least = time.perf_counter if part.device.type == "cuda" else time.thread_time, float("inf")
    for _ in range(REPEATS):
        begin = clock()
        x = part.evaluate(sample_ids, range(len(sample_ids)), len(sample_ids))
        least = min(least, clock() - begin)
        if least > enough:
            break
    return least, x


def _memory(device: torch.device) -> int:
    """The most bytes that this process has had there."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
