"""What the updates of one student draw at random."""

from dataclasses import replace

import torch
from torch import Tensor

from msd_ray.data import Samples
from msd_ray.objectives import Batch, Needs, Pairs
from msd_ray.rng import stream
from msd_ray.training.student_spec import StudentSpec


class Batches:
    """Noise, classes, real samples and pairs for each shard of a batch, the same whichever process draws them."""

    def __init__(self, spec: StudentSpec, real: Samples | None, pairs: Pairs | None, device: torch.device) -> None:
        """real: samples of the student's classes. pairs: of any class, on the device already."""
        self._spec, self._device, self._pairs = spec, device, pairs
        self._conditions = torch.tensor(spec.conditions, device=device)
        self._real = real and Samples(real.x.to(device), real.condition.to(device))

    @property
    def tensors(self) -> list[Tensor]:
        """What it draws from."""
        real = [self._real.x, self._real.condition] if self._real else []
        pairs = [self._pairs.z, self._pairs.x, self._pairs.condition] if self._pairs else []
        return [*real, *pairs]

    def stream(self, nimg: int, purpose: str, shard: int) -> torch.Generator:
        """That of (seed, student, nimg, purpose), and the shard's number where there are several."""
        spec = self._spec
        number = [shard] if spec.shards > 1 else []
        return stream(spec.seed, spec.index, nimg, purpose, *number, device=self._device)

    def draw(self, n: int, needs: Needs, step: int, seen: int, rng: torch.Generator) -> Batch:
        """`n` samples for an objective that needs `needs`; step, seen: as in `Batch`."""
        z = torch.randn(n, *self._spec.denoiser.sample_shape, generator=rng, device=self._device)
        batch = Batch(z, self._conditions[self._indices(n, len(self._conditions), rng)], step=step, seen=seen)
        if needs.real_data:
            assert self._real is not None
            chosen = self._indices(n, len(self._real), rng)
            batch = replace(batch, real=self._real.x[chosen], real_condition=self._real.condition[chosen])
        if needs.pairs:
            assert self._pairs is not None
            batch = replace(batch, pairs=self._pairs.at(self._indices(n, len(self._pairs), rng)))
        return batch

    def _indices(self, n: int, below: int, rng: torch.Generator) -> Tensor:
        return torch.randint(below, (n,), generator=rng, device=self._device)
