"""The students of one part of the conditions, which make the samples of these conditions."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from msd_ray.codecs import IDENTITY, Codec, load_codec
from msd_ray.conditions import Condition, Conditions, Embedded, Partition, spread
from msd_ray.ensemble.artifact import Description, Member, read_member
from msd_ray.ensemble.kernels import LARGE, as_in_large_batches, as_written
from msd_ray.ensemble.positions import Evaluation, Mode, batch_size_for, in_order, in_positions
from msd_ray.ensemble.requests import seeded_noises
from msd_ray.ensemble.sampling import Sampling, sampled
from msd_ray.networks import count_parameters
from msd_ray.training.config import TrainingConfig
from msd_ray.training.precision import apply_frozen

SampleId = tuple[Condition | Embedded, int]
"""The condition and the seed that a sample follows from."""
Run = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""Calls a network on its inputs, as `EDMDenoiser.run`."""


class Part:
    """One student, or those that share the noise levels.

    batch_size: samples per network evaluation if the batch must not change a sample (see `msd_ray.ensemble.positions`).
    parameters: of its students together. sample_shape: [C, H, W] or [D]. codec: what samples look
    like. batching: what the ensemble promises of a sample in the service.
    """

    def __init__(
        self,
        partition: Partition,
        conditions: Conditions,
        members: Sequence[Member],
        sampling: Sampling,
        device: torch.device | str = "cpu",
        codec: Codec = IDENTITY,
        batching: Mode = "exact",
    ) -> None:
        """members: the students of the part, lowest noise levels first. Raises CorruptError if weights do not fit their
        network."""
        self._partition, self._sampling, self.device = partition, sampling, torch.device(device)
        self._conditions, self.batching = conditions, batching
        self._students = [member.build(None, device) for member in members]
        self._sigma_init, self.codec = members[0].sigma_init, codec
        self._bases = [member.base for member in members]  # others of this process find them as long as one has them
        sizes = [count_parameters(student) for student in self._students]
        self.sample_shape, self.parameters = members[0].spec.sample_shape, sum(sizes)
        self.batch_size = batch_size_for(max(sizes), math.prod(self.sample_shape[1:]))
        if self.device.type == "cpu" and self.batch_size >= LARGE:
            for student in self._students:
                as_in_large_batches(student)

    @classmethod
    def load(cls, known: Description, part: int, device: torch.device | str = "cpu") -> "Part":
        """Part number `part` of an ensemble, without reading the others' weights. Raises CorruptError if its weights
        are damaged."""
        members = [read_member(known, index) for index in known.partition.students_of(part)]
        codec = load_codec(known.codec)
        return cls(known.partition, known.conditions, members, known.sampling, device, codec, known.batching)

    def generate(self, sample_ids: Sequence[SampleId], batch: int = 0, sampling: Sampling | None = None) -> Tensor:
        """The samples of these ids, as `Ensemble.generate` makes them: [N, *sample_shape], float32, on the CPU."""
        out = torch.empty(len(sample_ids), *self.sample_shape)
        for evaluation in self._evaluations(sample_ids, batch):
            chosen = [sample_ids[sample] for sample in evaluation.samples]
            out[evaluation.samples] = self.evaluate(chosen, evaluation.positions, evaluation.size, sampling)
        return out

    def compute_in_bf16(self) -> None:
        """From now on the networks compute in bf16 where torch's autocast does, and keep these weights so."""
        for student in self._students:
            apply_frozen(student, TrainingConfig(precision="bf16"))

    def run_networks(self, engine: Callable[[], Run]) -> None:
        """From now on each network is computed by what `engine` makes for it."""
        for student in self._students:
            as_written(student)
            student.run = engine()

    def position_of(self, sample_id: SampleId) -> int:
        """The position in a batch of `batch_size` at which a sample is always made."""
        condition, seed = sample_id
        return spread(condition.text if isinstance(condition, Embedded) else condition, seed, self.batch_size)

    @torch.no_grad()
    def evaluate(
        self, sample_ids: Sequence[SampleId], positions: Sequence[int], size: int, sampling: Sampling | None = None
    ) -> Tensor:
        """The samples of these ids, made together in a batch of `size`, each at its position: [N, *sample_shape]."""
        how, at = sampling or self._sampling, list(positions)
        noises = torch.zeros(how.draws, size, *self.sample_shape)
        noises[:, at] = seeded_noises([seed for _, seed in sample_ids], self.sample_shape, how.draws)
        asked = embedded(self._conditions, [condition for condition, _ in sample_ids], self.device)
        condition = asked.new_zeros(size, *asked.shape[1:])
        condition[at] = asked
        x = sampled(self._partition, self._students, self._sigma_init, how, noises.to(self.device), condition)
        return x.cpu()[at]

    def _evaluations(self, sample_ids: Sequence[SampleId], batch: int) -> Iterator[Evaluation]:
        if batch > 0:
            return in_order(len(sample_ids), batch)
        return in_positions([self.position_of(sample_id) for sample_id in sample_ids], self.batch_size)


def embedded(conditions: Conditions, asked: Sequence[Condition | Embedded], device: torch.device) -> Tensor:
    """What networks take for these: [N, ...], on the device."""
    left = [each for each in asked if not isinstance(each, Embedded)]
    made = iter(conditions.embed(conditions.encode(left).to(device)) if left else ())
    taken = (torch.tensor(e.vectors, device=device) if isinstance(e, Embedded) else next(made) for e in asked)
    return torch.stack(list(taken))
