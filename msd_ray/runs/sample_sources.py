"""Where the samples of an evaluation come from: data, a teacher, or one part of an ensemble; each sample by number."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.conditions import Conditions, ConditionsConfig, Router, in_turn, make_conditions
from msd_ray.data import DataConfig, DataSet, Samples, Split, load_data
from msd_ray.ensemble import Ensemble, Part, Sampling, read_description, seeded_noise
from msd_ray.ensemble.artifact import conditions_spec
from msd_ray.evaluation import Sampler
from msd_ray.evaluation.feature_distances import Numbers
from msd_ray.evaluation.sample_statistics import KEPT
from msd_ray.rng import stream
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.storage import Store, digest
from msd_ray.teachers import TeacherSource


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def teacher_sampler(
    teacher: TeacherSource, sampling: Sampling, conditions: Conditions, device: torch.device
) -> Sampler:
    """The teacher, asked as `sampling` says."""
    denoiser, shape = load_teacher(teacher, device), teacher.sample_shape

    def sample(ids: Tensor, seeds: list[int]) -> Tensor:
        def fresh(step: int) -> Tensor:
            drawn = [torch.randn(shape, generator=stream("churn", seed, step)) for seed in seeds]
            return torch.stack(drawn).to(device)

        z = seeded_noise(seeds, shape).to(device)
        return sampling.integrate(denoiser, z, conditions.encode(ids).to(device), fresh)

    return sample


def part_sampler(part: Part, conditions: Conditions) -> Sampler:
    """The bits of `generate` where the ensemble promises them of the service, else plain batches as the teacher's."""
    exact = part.batching == "exact"
    return lambda ids, seeds: part.generate(
        list(zip(conditions.asked(ids), seeds, strict=True)), 0 if exact else len(seeds)
    )


def ensemble_sampler(ensemble: Ensemble, conditions: Conditions) -> Sampler:
    """As `part_sampler`, of any condition."""
    exact = ensemble.batching == "exact"
    return lambda ids, seeds: ensemble.generate(conditions.asked(ids), seeds, 0 if exact else len(seeds))


WARM_UP = 8
Make = Callable[[Numbers], Samples]


class Source(Protocol):
    """Part of a set of samples; small, equal where it is the same, and sent to whoever makes them."""

    def __hash__(self) -> int: ...

    def numbers(self, total: int) -> Numbers:
        """Its samples among those of a set of `total`, rising."""
        ...

    def kept(self, numbers: Numbers, total: int) -> NDArray[np.bool_]:
        """Of which of these the features are kept: of KEPT in all, some of every condition."""
        ...

    def open(self, data: DataConfig, device: torch.device) -> Make:
        """What gives or makes the samples with these numbers; every call with the same ones gives the same."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What tells it from others; where its weights lie does not."""
        ...


@dataclass(frozen=True)
class Real:
    """Real samples. of_part: only those of the conditions that this part of an ensemble owns."""

    split: Literal["train", "held_out"]
    of_part: "FromPart | None" = None

    def of(self, data: DataSet) -> Split:
        split = data.train if self.split == "train" else data.held_out
        return split.only(self.of_part.ids) if self.of_part else split

    def to_json(self) -> dict[str, Any]:
        return {"real": self.split, "conditions": digest(self.of_part.ids.tolist()) if self.of_part else "all"}

    def numbers(self, total: int) -> Numbers:
        return np.arange(total)

    def kept(self, numbers: Numbers, total: int) -> NDArray[np.bool_]:
        if total <= KEPT:
            return np.ones(len(numbers), dtype=bool)
        before, at = ((n * KEPT) // total for n in (numbers - 1, numbers))
        keep: NDArray[np.bool_] = before != at  # evenly spaced: data may lie by class
        return keep

    def open(self, data: DataConfig, device: torch.device) -> Make:
        chosen = self.of(load_data(data))
        return lambda numbers: chosen.take(torch.from_numpy(numbers))


@dataclass(frozen=True)
class FromTeacher:
    """What a teacher makes. weights: its fingerprint. n: how many conditions there are. conditions: what they are."""

    teacher: TeacherSource = field(compare=False)
    weights: str
    sampling: Sampling
    n: int
    conditions: ConditionsConfig = field(default=ConditionsConfig(), compare=False)

    def numbers(self, total: int) -> Numbers:
        return np.arange(total)

    def kept(self, numbers: Numbers, total: int) -> NDArray[np.bool_]:
        return numbers < KEPT  # conditions come in turn

    def open(self, data: DataConfig, device: torch.device) -> Make:
        conditions = make_conditions(self.conditions, load_data(data).labels)
        return _by_number(teacher_sampler(self.teacher, self.sampling, conditions, device), self.n, 0)

    def to_json(self) -> dict[str, Any]:
        return {"teacher": self.weights, "sampling": self.sampling.to_json(), "n": self.n}


@dataclass(frozen=True)
class FromPart:
    """What one part of an ensemble makes: samples of the conditions that it owns. uri: of the ensemble. weights: its
    hash."""

    uri: str
    weights: str
    part: int

    @property
    def ids(self) -> Tensor:
        """The conditions that it owns, rising."""
        return self._router.ids_of(self.part)

    def numbers(self, total: int) -> Numbers:
        router = self._router
        parts = router.part_of(in_turn(torch.arange(router.n), torch.arange(total)))
        return torch.nonzero(parts == self.part).flatten().numpy()

    def kept(self, numbers: Numbers, total: int) -> NDArray[np.bool_]:
        return numbers < KEPT  # conditions come in turn

    def open(self, data: DataConfig, device: torch.device) -> Make:
        known = read_description(Store(self.uri))
        conditions = conditions_spec(known.recipe, load_data(data).labels).make()
        part = Part.load(known, self.part, device)
        return _by_number(part_sampler(part, conditions), self._router.n, int(self.ids[0]))

    def to_json(self) -> dict[str, Any]:
        return {"ensemble": self.weights, "part": self.part}

    @property
    def _router(self) -> Router:
        return _router_of(self.uri, self.weights)


@lru_cache(maxsize=8)
def _router_of(uri: str, weights: str) -> Router:
    return read_description(Store(uri)).partition.router


def _by_number(sample: Sampler, n: int, first: int) -> Make:
    """Sample number i has the seed i and the i-th of the n conditions in turn, whoever makes it. The sampler is warmed
    up, so that its first samples take no longer than others; it makes samples of the condition `first`."""
    ids = torch.arange(n)

    def make(numbers: Numbers) -> Samples:
        condition = in_turn(ids, torch.from_numpy(numbers))
        return Samples(sample(condition, numbers.tolist()).detach().cpu(), condition)

    make(np.arange(WARM_UP) * n + first)
    return make
