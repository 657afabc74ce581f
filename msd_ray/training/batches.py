"""What the updates of one student draw at random."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_ray.conditions import Owned
from msd_ray.data import Samples, Split
from msd_ray.diffusion import random_anchors
from msd_ray.objectives import Batch, Needs, Pairs
from msd_ray.rng import stream
from msd_ray.training.reading import Ahead, Reader
from msd_ray.training.student_spec import StudentSpec


@dataclass(frozen=True)
class Draw:
    """One shard of what an update draws for a purpose, at `nimg` images: n samples for an objective that needs `needs`;
    step, seen: as in `Batch`."""

    purpose: str
    shard: int
    nimg: int
    n: int
    needs: Needs
    step: int
    seen: int


class Batches:
    """Noise, conditions, real samples and pairs for each shard of a batch, the same whichever process draws them."""

    def __init__(
        self, spec: StudentSpec, owned: Owned, real: Split | None, pairs: Pairs | None, device: torch.device
    ) -> None:
        """owned: the student's conditions. real: samples of these. pairs: of any condition, on the device already."""
        self._spec, self._device, self._pairs = spec, device, pairs
        self._owned, self._encode = owned.to(device), owned.conditions.encode
        self._real = Reader(real, device) if real else None
        self._ahead = Ahead(self._drawn)

    @property
    def tensors(self) -> list[Tensor]:
        """What it draws from."""
        real = self._real.tensors if self._real else []
        pairs = [self._pairs.z, self._pairs.x, self._pairs.condition] if self._pairs else []
        return [*real, *pairs]

    def stream(self, nimg: int, purpose: str, shard: int) -> torch.Generator:
        """That of (seed, student, nimg, purpose), and the shard's number where there are several."""
        spec = self._spec
        number = [shard] if spec.shards > 1 else []
        return stream(spec.seed, spec.index, nimg, purpose, *number, device=self._device)

    def draw(self, asked: Draw, images: int) -> tuple[Batch, torch.Generator]:
        """What is asked for, and the stream that it came from. images: that an update trains on, after which most
        probably the same is asked for again."""
        if self._real is None or self._real.is_held or not (asked.needs.real_data or self._spec.phase):
            return self._drawn(asked)
        following = replace(asked, nimg=asked.nimg + images, step=asked.step + 1, seen=asked.seen + images)
        return self._ahead.get(f"{asked.purpose} {asked.shard}", asked, following)

    def rest(self) -> None:
        """Keeps nothing that was read ahead."""
        self._ahead.rest()

    def _drawn(self, asked: Draw) -> tuple[Batch, torch.Generator]:
        rng = self.stream(asked.nimg, asked.purpose, asked.shard)
        return self._batch(asked.n, asked.needs, asked.step, asked.seen, rng), rng

    def _batch(self, n: int, needs: Needs, step: int, seen: int, rng: torch.Generator) -> Batch:
        z = torch.randn(n, *self._spec.denoiser.sample_shape, generator=rng, device=self._device)
        batch = Batch(z, self._owned.draw(n, rng), step=step, seen=seen)
        if further := len(self._spec.noise.step_levels) - 1:
            batch = replace(batch, renoise=torch.randn(further, *z.shape, generator=rng, device=self._device))
            if self._spec.training.anchors == "random":
                batch = replace(batch, anchors=random_anchors(self._spec.noise, n, rng))
        if self._spec.phase:
            start = self._real_samples(n, rng)
            batch = replace(batch, start=start.x, condition=self._encode(start.condition))
        if needs.real_data:
            real = self._real_samples(n, rng)
            batch = replace(batch, real=real.x, real_condition=self._encode(real.condition))
        if needs.pairs:
            pairs = self._some_pairs(n, needs.own_pairs, rng)
            batch = replace(batch, pairs=replace(pairs, condition=self._encode(pairs.condition)))
        return batch

    def _some_pairs(self, n: int, own: bool, rng: torch.Generator) -> Pairs:
        assert self._pairs is not None
        if not own:
            return self._pairs.at(self._indices(n, len(self._pairs), rng))
        is_own = torch.isin(self._pairs.condition, self._owned.ids).float()
        return self._pairs.at(is_own.multinomial(n, replacement=True, generator=rng))

    def _real_samples(self, n: int, rng: torch.Generator) -> Samples:
        assert self._real is not None
        return self._real.take(self._indices(n, len(self._real), rng), rng)

    def _indices(self, n: int, below: int, rng: torch.Generator) -> Tensor:
        return torch.randint(below, (n,), generator=rng, device=self._device)
