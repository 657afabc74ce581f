"""What every objective takes and gives."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, Noise


@dataclass(frozen=True)
class Needs:
    """What the trainer must provide. teacher: nothing, its output, or also the gradient through it."""

    teacher: Literal["none", "output", "gradient"] = "output"
    real_data: bool = False
    head: bool = False


@dataclass(frozen=True)
class Nets:
    """The networks of one student. head: discriminator on the fake score's bottleneck, where the objective needs it."""

    generator: EDMDenoiser
    fake: EDMDenoiser
    head: nn.Module | None = None

    def logits(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """The discriminator's logits [B, 1] for noised samples; large means real."""
        assert self.head is not None
        logits: Tensor = self.head(self.fake.bottleneck(x_t, sigma, condition))
        return logits


@dataclass(frozen=True)
class Batch:
    """z: [B, ...] noise for the generator. condition: [B] classes of the student. real: [B, ...] real samples of the
    student's classes and real_condition [B] theirs, where the objective needs them."""

    z: Tensor
    condition: Tensor
    real: Tensor | None = None
    real_condition: Tensor | None = None


@dataclass(frozen=True)
class Draft:
    """One generator update begun: x = G(z) [B, ...] with its graph, and the question put to the teacher about it,
    x_t [B, ...] at sigma [B]. The teacher can answer while the fake score trains, since G does not change meanwhile."""

    x: Tensor
    x_t: Tensor
    sigma: Tensor
    condition: Tensor


@dataclass(frozen=True)
class Loss:
    """total: scalar to differentiate. parts: named scalars for the curves, detached."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """One method. A generator update is `draft`, the teacher's answer, `generator_loss`; between the first and the last
    the fake score takes its steps with `fake_loss`, each on its own batch."""

    @property
    def noise(self) -> Noise: ...

    @property
    def needs(self) -> Needs: ...

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft: ...

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss: ...

    def fake_loss(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Loss: ...
