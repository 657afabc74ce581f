"""Where the samples of an evaluation come from: data, a teacher, or one part of an ensemble; each sample by number."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_ray.data import DataConfig, DataSet, Samples, Split, load_data
from msd_ray.ensemble import Ensemble, Part, Sampling, read_description, seeded_noise
from msd_ray.evaluation import Sampler
from msd_ray.evaluation.sample_statistics import KEPT, Numbers
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.storage import Store
from msd_ray.teachers import TeacherSource


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def teacher_sampler(teacher: TeacherSource, sampling: Sampling, device: torch.device) -> Sampler:
    """The teacher, asked as `sampling` says."""
    denoiser, shape = load_teacher(teacher, device), teacher.sample_shape

    def sample(condition: Tensor, seeds: list[int]) -> Tensor:
        z = seeded_noise(seeds, shape).to(device)
        return sampling.integrate(denoiser, z, condition.to(device))

    return sample


def part_sampler(part: Part) -> Sampler:
    """In plain batches as the teacher is sampled, so that their times compare; `generate` pays for exact samples."""
    return lambda condition, seeds: part.generate(list(zip(condition.tolist(), seeds, strict=True)), batch=len(seeds))


def ensemble_sampler(ensemble: Ensemble) -> Sampler:
    """As `part_sampler`, of any condition."""
    return lambda condition, seeds: ensemble.generate(condition, seeds, batch=len(seeds))


WARM_UP = 8
Make = Callable[[Numbers], Samples]


class Source(Protocol):
    """Part of a set of samples; small, equal where it is the same, and sent to whoever makes them."""

    def __hash__(self) -> int: ...

    def numbers(self, total: int) -> Numbers:
        """Its samples among those of a set of `total`, rising."""
        ...

    def kept(self, numbers: Numbers, total: int) -> NDArray[np.bool_]:
        """Of which of these the features are kept: of KEPT in all, some of every class."""
        ...

    def open(self, data: DataConfig, device: torch.device) -> Make:
        """What gives or makes the samples with these numbers; every call with the same ones gives the same."""
        ...


@dataclass(frozen=True)
class Real:
    """The real samples of some classes."""

    split: Literal["train", "held_out"]
    classes: tuple[int, ...]

    def of(self, data: DataSet) -> Split:
        return (data.train if self.split == "train" else data.held_out).only(list(self.classes))

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
    """What a teacher makes. weights: its fingerprint. classes: how many there are."""

    teacher: TeacherSource = field(compare=False)
    weights: str
    sampling: Sampling
    classes: int

    def numbers(self, total: int) -> Numbers:
        return np.arange(total)

    def kept(self, numbers: Numbers, total: int) -> NDArray[np.bool_]:
        return numbers < KEPT  # classes come in turn

    def open(self, data: DataConfig, device: torch.device) -> Make:
        return _by_number(teacher_sampler(self.teacher, self.sampling, device), self.classes, 0)


@dataclass(frozen=True)
class FromPart:
    """What one part of an ensemble makes: the samples of its own classes. uri: of the ensemble. weights: its hash."""

    uri: str
    weights: str
    part: int
    own: tuple[int, ...]
    classes: int

    def numbers(self, total: int) -> Numbers:
        return np.flatnonzero(np.isin(np.arange(total) % self.classes, self.own))

    def kept(self, numbers: Numbers, total: int) -> NDArray[np.bool_]:
        return numbers < KEPT  # classes come in turn

    def open(self, data: DataConfig, device: torch.device) -> Make:
        part = Part.load(read_description(Store(self.uri)), self.part, device)
        return _by_number(part_sampler(part), self.classes, self.own[0])


def _by_number(sample: Sampler, classes: int, first: int) -> Make:
    """Sample number i has the seed i and the class i mod `classes`, whoever makes it. The sampler is warmed up, so that
    its first samples take no longer than others; it makes samples of class `first`."""

    def make(numbers: Numbers) -> Samples:
        condition = torch.from_numpy(numbers % classes)
        return Samples(sample(condition, numbers.tolist()).detach().cpu(), condition)

    make(np.arange(WARM_UP) * classes + first)
    return make
