"""An ensemble ready to generate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from msd_ray.codecs import IDENTITY, Codec, load_codec
from msd_ray.conditions import Condition, Partition
from msd_ray.ensemble.artifact import Member, conditions_spec, contradiction, read_description, read_member
from msd_ray.ensemble.part import Part
from msd_ray.ensemble.positions import Mode
from msd_ray.ensemble.requests import asked_of, seeds_of
from msd_ray.ensemble.sampling import ONE_STEP, Sampling
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks.denoiser_spec import stored_parameters
from msd_ray.storage import Store


class Ensemble:
    """K students that make samples together.

    partition: which student owns which conditions and noise levels. labels: of the data set. recipe: of the students'
    training, which says what a condition is. members: the students in order. sampling: how they make a sample by
    default. codec: what samples look like. batching: what it promises of a sample in the service. parameters: of all
    students together, a base of adapters counted once.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        partition: Partition,
        labels: tuple[str, ...],
        members: Sequence[Member],
        device: torch.device | str = "cpu",
        sampling: Sampling = ONE_STEP,
        codec: Codec = IDENTITY,
        batching: Mode = "exact",
    ) -> None:
        """Raises CorruptError if the arguments contradict each other."""
        self.conditions = conditions_spec(recipe, labels).make()
        problem = contradiction(partition, self.conditions, members, sampling)
        if problem:
            raise CorruptError(f"this is not one ensemble: {problem}")
        self.recipe, self.partition, self.labels = recipe, partition, labels
        self.members, self.device, self.sampling = tuple(members), torch.device(device), sampling
        self.codec, self.batching = codec, batching
        self.parameters = stored_parameters((m.spec, m.adapter) for m in self.members)
        self._parts: dict[int, Part] = {}

    @classmethod
    def load(cls, where: str | Store, device: torch.device | str = "cpu") -> "Ensemble":
        """The ensemble at a path, URI or store. A student's weights are read, and every byte of them verified, when it
        is first asked for a sample.

        Raises UserError if there is none or it is of a newer format, CorruptError if its description is damaged.
        """
        known = read_description(where if isinstance(where, Store) else Store(where))
        members = [read_member(known, index) for index in range(known.partition.k)]
        codec = load_codec(known.codec)
        return cls(known.recipe, known.partition, known.labels, members, device, known.sampling, codec, known.batching)

    def part(self, number: int) -> Part:
        """The students of a part, loaded; they stay in memory. Raises CorruptError if weights are damaged or do not fit
        their network."""
        if number not in self._parts:
            members = [self.members[i] for i in self.partition.students_of(number)]
            how = self.sampling, self.device, self.codec, self.batching
            self._parts[number] = Part(self.partition, self.conditions, members, *how)
        return self._parts[number]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """[C, H, W] or [D]."""
        return self.members[0].spec.sample_shape

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return self.sampling.nfe

    def generate(
        self,
        conditions: Sequence[Condition] | Tensor,
        seeds: Sequence[int] | Tensor,
        batch: int = 0,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """One sample for each pair of condition and seed: [N, *sample_shape], float32, on the CPU. Prompts are texts.

        The noise of a sample follows from its seed alone. By default every bit of the sample follows from seed and
        condition, whatever else is generated in the same call, on one machine, device and number of threads (see
        `msd_ray.ensemble.positions` for how). With `batch` > 0, up to that many samples are evaluated together instead,
        which suits an accelerator better and changes a sample by rounding errors (about 1e-6). sampler ("heun" or
        "ddim") and steps replace those of an ensemble that takes several; students of a few steps can take fewer.
        guidance replaces that of students that learnt several.

        Raises UserError for conditions that no student owns, for values that are no conditions, for different lengths,
        and for a sampler, steps or guidance that these students do not allow; CorruptError as `part`, before any sample
        is made.
        """
        sampling = self.sampling.changed(sampler, steps, self.partition, guidance)
        wanted, seed_list = asked_of(self.conditions, conditions), seeds_of(seeds)
        if len(wanted) != len(seed_list):
            raise UserError(f"{len(wanted)} conditions but {len(seed_list)} seeds: give one seed per condition")
        asked, places = self.partition.prepared(self.conditions, wanted)
        numbers = [place.part for place in places]
        parts = {number: self.part(number) for number in sorted(set(numbers))}
        out = torch.empty(len(wanted), *self.sample_shape)
        for number, part in parts.items():
            mine = [i for i, of in enumerate(numbers) if of == number]
            out[mine] = part.generate([(asked[i], seed_list[i]) for i in mine], batch, sampling)
        return out
