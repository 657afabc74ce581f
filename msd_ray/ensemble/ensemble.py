"""An ensemble ready to generate."""

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from msd_ray.diffusion import one_step
from msd_ray.ensemble.artifact import contradiction, read_description, read_member
from msd_ray.ensemble.member import Member
from msd_ray.ensemble.slots import Evaluation, in_order, in_slots, slot_of, slots_for
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks import count_parameters
from msd_ray.partition import Partition
from msd_ray.random import stream
from msd_ray.storage import Store


class Ensemble:
    """K students that make one sample per network evaluation.

    partition: who owns which condition. labels: name of each condition. recipe: what the students were trained by.
    members: the students in order. parameters: of all of them together.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        partition: Partition,
        labels: tuple[str, ...],
        members: Sequence[Member],
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises CorruptError where the parts contradict each other or weights do not fit their network."""
        problem = contradiction(partition, labels, members)
        if problem:
            raise CorruptError(f"this is not one ensemble: {problem}")
        self.recipe, self.partition, self.labels = recipe, partition, labels
        self.members, self.device = tuple(members), torch.device(device)
        self._students = [member.build(device) for member in members]
        self.parameters = sum(count_parameters(student) for student in self._students)

    @classmethod
    def load(cls, where: str | Store, device: torch.device | str = "cpu") -> "Ensemble":
        """Reads an ensemble from a path, URI or store and verifies every byte of it.

        Raises UserError if there is none or it is of a newer format, CorruptError if it is damaged.
        """
        known = read_description(where if isinstance(where, Store) else Store(where))
        members = [read_member(known, index) for index in range(known.partition.k)]
        return cls(known.recipe, known.partition, known.labels, members, device)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """[C, H, W] or [D]."""
        return self.members[0].spec.sample_shape

    @torch.no_grad()
    def generate(self, conditions: Sequence[int] | Tensor, seeds: Sequence[int] | Tensor, batch: int = 0) -> Tensor:
        """One sample for each pair of condition and seed: [N, *sample_shape], float32, on the CPU.

        The noise of a sample follows from its seed alone. By default so does every bit of the sample, whatever it is
        generated together with: on one machine, device and number of threads, the same seed and condition give the
        same sample (see `msd_ray.ensemble.slots` for how). With `batch` > 0, up to that many samples are evaluated
        together instead, which suits an accelerator better and changes a sample by rounding errors (about 1e-6).

        Raises UserError for conditions that no student owns, for what is not an integer, and for different lengths.
        """
        wanted, seed_list = _integers(conditions, "conditions"), _integers(seeds, "seeds")
        if len(wanted) != len(seed_list):
            raise UserError(f"{len(wanted)} conditions but {len(seed_list)} seeds: give one seed per condition")
        owners = self.partition.route(_as_tensor(wanted)).tolist()
        out = torch.empty(len(wanted), *self.sample_shape)
        for student in range(self.partition.k):
            mine = [i for i, owner in enumerate(owners) if owner == student]
            pairs = [(wanted[i], seed_list[i]) for i in mine]
            for evaluation in self._evaluations(student, pairs, batch):
                out[[mine[sample] for sample in evaluation.samples]] = self._evaluate(student, pairs, evaluation)
        return out

    def _evaluations(self, student: int, pairs: list[tuple[int, int]], batch: int) -> Iterator[Evaluation]:
        if batch > 0:
            return in_order(len(pairs), batch)
        size = slots_for(count_parameters(self._students[student]), math.prod(self.sample_shape[1:]))
        return in_slots([slot_of(seed, condition, size) for condition, seed in pairs], size)

    def _evaluate(self, student: int, pairs: list[tuple[int, int]], evaluation: Evaluation) -> Tensor:
        """The samples of one evaluation; pairs: condition and seed of all samples of the student."""
        chosen, positions = [pairs[sample] for sample in evaluation.samples], evaluation.positions
        noise = [torch.randn(self.sample_shape, generator=stream("sample", seed)) for _, seed in chosen]
        z = torch.zeros(evaluation.size, *self.sample_shape)
        z[positions] = torch.stack(noise)
        condition = torch.zeros(evaluation.size, dtype=torch.long)
        condition[positions] = torch.tensor([condition for condition, _ in chosen])
        sigma_init = self.members[student].sigma_init
        samples = one_step(self._students[student], z.to(self.device), condition.to(self.device), sigma_init)
        return samples.cpu()[positions]


def seeded_noise(seeds: Sequence[int], sample_shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, each sample's drawn from its own seed: [N, *sample_shape]."""
    return torch.stack([torch.randn(sample_shape, generator=stream("sample", seed)) for seed in seeds])


def _integers(values: Sequence[int] | Tensor, what: str) -> list[int]:
    try:
        return [operator.index(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]
    except TypeError as error:
        raise UserError(f"{what} must be a list of integers: {error}") from error


def _as_tensor(conditions: list[int]) -> Tensor:
    try:
        return torch.tensor(conditions, dtype=torch.long)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise UserError(f"no such condition: {max(conditions, key=abs)}") from error
