"""What every objective takes and gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, Noise, rolled_out


@dataclass(frozen=True)
class Nets:
    """The networks of one student.

    fake: the fake score. head: the discriminator's own layers, where the objective has one. target: an average of the
    generator's weights. encoder: the frozen teacher, for what lies inside it. pretrained: the frozen network of
    `Needs.pretrained`. memory: tensors that the objective keeps from one update to the next.
    """

    generator: EDMDenoiser
    fake: EDMDenoiser
    head: nn.Module | None = None
    target: EDMDenoiser | None = None
    encoder: EDMDenoiser | None = None
    pretrained: nn.Module | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)

    def logits(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Logits [B, 1] of the discriminator on the fake score's bottleneck for noised samples; large means real."""
        assert self.head is not None
        logits: Tensor = self.head(self.fake.bottleneck(x_t, sigma, condition))
        return logits


@dataclass(frozen=True)
class Optimization:
    """How a method's authors train with it, which a stage does where its recipe does not say otherwise. Most methods
    here descend from DMD2, whose values (arXiv 2405.14867, official code) are the defaults.

    optimizer, betas, weight_decay: of the generator, and of fake score and discriminator. clip: largest norm of the
    gradient of either; 0: not clipped. fake_clip_value: largest absolute value of an element of the gradient of fake
    score and discriminator; 0: not clipped. fake_steps: updates of these two for each of the generator's. fake_first:
    images at the beginning in which only these two train.
    """

    optimizer: Literal["adamw", "adam", "radam"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 10.0
    fake_clip_value: float = 0.0
    fake_steps: int = 5
    fake_first: int = 0


@dataclass(frozen=True)
class Needs:
    """What the trainer must provide, and what it gets.

    teacher: nothing, its output, or also the gradient through it. follow_up: a second question to the teacher, made of
    the first and its answer. real_data, pairs: samples beside the noise. own_pairs: of the student's own conditions
    alone. fake: whether a fake score trains beside the generator. head: makes the discriminator's layers. second_order:
    whether a loss differentiates their gradient once more. encoder: the frozen teacher beside the student. pretrained:
    the name, in `networks.PRETRAINED`, of a frozen network, whose features of pictures the discriminator judges; no
    checkpoint holds it. memory: name and shape of what is kept between updates, all ones at first, for these networks
    and samples of that shape. minimised: features, as evaluations name them, whose Frechet distance is the loss, so
    that it would say nothing in a table. boundary: the generator must be the identity at sigma_min. frozen: regular
    expressions; generator weights whose names hold one of them stay as they are. target_decay: how much of
    `Nets.target`, which begins as the generator, an update keeps. optimization: what the recipe's stage may leave out.
    complete_from: images of a stage after which all terms of the loss take part, so that it must have more. few_steps:
    whether it trains a generator at all of `noise.step_levels`, rather than at the first. phases: whether it compares
    at no other noise levels than those of `noise`, so that it can train a generator of some of a sample's steps.

    makes: a generator of one step or a few, or a denoiser at every noise level, which the next stage's fake score then
    starts from. ddim_steps: of DDIM, in which such a denoiser makes samples; 0: as its teacher makes them.
    guidance: at which such a denoiser of classes makes samples, where it is told one and its teacher is asked for no
    class as well.
    """

    teacher: Literal["none", "output", "gradient"] = "output"
    follow_up: Callable[["Draft", Tensor], "Draft"] | None = None
    real_data: bool = False
    pairs: bool = False
    own_pairs: bool = False
    fake: bool = True
    head: Callable[[Nets], nn.Module] | None = None
    second_order: bool = False
    encoder: bool = False
    pretrained: str = ""
    memory: Callable[[Nets, tuple[int, ...]], Mapping[str, tuple[int, ...]]] | None = None
    minimised: tuple[str, ...] = ()
    boundary: bool = False
    frozen: tuple[str, ...] = ()
    target_decay: float | None = None
    optimization: Optimization = Optimization()
    complete_from: int = 0
    few_steps: bool = False
    phases: bool = False
    makes: Literal["generator", "denoiser"] = "generator"
    ddim_steps: int = 0
    guidance: float | None = None


@dataclass(frozen=True)
class Pairs:
    """What the teacher's ODE makes of noise: z [N, ...] ~ N(0, I), x [N, ...], condition [N]."""

    z: Tensor
    x: Tensor
    condition: Tensor

    def __len__(self) -> int:
        return len(self.z)

    def at(self, index: Tensor) -> "Pairs":
        return Pairs(self.z[index], self.x[index], self.condition[index])

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(self.z.to(device), self.x.to(device), self.condition.to(device))


@dataclass(frozen=True)
class Batch:
    """z: [B, ...] noise for the generator, renoise: [steps - 1, B, ...] for its further steps, and anchors: [steps - 1,
    B] the levels of these, where they are not those of sampling. condition: [B] classes of the student. start: [B, ...]
    clean samples of these classes that z is the noise of, None where the generator begins from pure noise. real: [B,
    ...] real samples of the student's classes and real_condition [B] theirs, pairs: [B] of the teacher's, where the
    objective needs them. step, seen: updates and images of the stage so far, those in which the generator rests
    included."""

    z: Tensor
    condition: Tensor
    real: Tensor | None = None
    real_condition: Tensor | None = None
    pairs: Pairs | None = None
    step: int = 0
    seen: int = 0
    renoise: Tensor | None = None
    start: Tensor | None = None
    anchors: Tensor | None = None


def joined(batches: Sequence[Batch]) -> Batch:
    """What the generator takes of several batches, one after the other."""
    z, condition = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("z", "condition"))
    renoise = [batch.renoise for batch in batches if batch.renoise is not None]
    start = [batch.start for batch in batches if batch.start is not None]
    anchors = [batch.anchors for batch in batches if batch.anchors is not None]
    return Batch(
        z,
        condition,
        renoise=torch.cat(renoise, dim=1) if renoise else None,
        start=torch.cat(start) if start else None,
        anchors=torch.cat(anchors, dim=1) if anchors else None,
    )


def generated(generator: EDMDenoiser, batch: Batch, noise: Noise, batches: int = 1) -> Tensor:
    """What the generator makes of a batch's noise, [B, ...]: each sample after another number of its steps, see
    `rolled_out`. batches: that the batch is made of."""
    b, levels = batch, noise.step_levels
    return rolled_out(generator, b.z, b.condition, b.renoise, levels, batches, b.start, b.anchors)


@torch.no_grad()
def partly_own(nets: Nets, batch: Batch, noise: Noise, share: float) -> tuple[Tensor, Tensor]:
    """The real samples of a batch [B, ...] and their conditions [B], the first `share` of which are instead what the
    generator makes of the batch's noise, and their conditions: so it learns from where its own steps lead as well
    (DDIL, arXiv 2410.11971)."""
    assert batch.real is not None and batch.real_condition is not None
    n = round(share * len(batch.z))
    if not n:
        return batch.real, batch.real_condition
    made = generated(nets.generator, batch, noise)[:n]
    return torch.cat([made, batch.real[n:]]), torch.cat([batch.condition[:n], batch.real_condition[n:]])


@dataclass(frozen=True)
class Draft:
    """One generator update begun: x [B, ...], for most methods G(z) with its graph, and the question put to the teacher
    about it, x_t [B, ...] at sigma [B]. The teacher can answer while the fake score trains, since G does not change
    meanwhile. earlier: where the objective asks twice, the first question and its answer [B, ...]."""

    x: Tensor
    x_t: Tensor
    sigma: Tensor
    condition: Tensor
    earlier: "tuple[Draft, Tensor] | None" = None


@dataclass(frozen=True)
class Loss:
    """total: scalar to differentiate. parts: named scalars for the curves, detached."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """One method. A generator update is `draft`, the teacher's answer, `needs.follow_up` and the teacher's answer to it
    where there is one, and `generator_loss`, which is given the last draft and answer."""

    @property
    def noise(self) -> Noise: ...

    @property
    def needs(self) -> Needs: ...

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft: ...

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss: ...


class TrainsFake(Objective, Protocol):
    """A method with a fake score, a discriminator or both, which take their steps between the first draft and the last
    answer, each on its own batch."""

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        """x: [B, ...], what the generator makes of the batch's z, without a graph."""
        ...
