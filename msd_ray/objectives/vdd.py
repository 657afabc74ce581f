"""VDD: a teacher into a mixture of Gaussian experts with a learned gate (arXiv 2406.12538).

The reverse Kullback-Leibler divergence has an upper bound that parts into one for each expert: its samples are to be
likely for the teacher, of whom only the score is needed, to be seen as its own among all experts (the responsibility),
and to spread (the entropy). The gate learns who is responsible for real samples. Ours are one expert for each sample of
a batch, drawn evenly, and how the noise level falls at which the teacher is asked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from msd_ray.diffusion import Noise
from msd_ray.errors import UserError
from msd_ray.networks.gaussian_mixture import GaussianMixture, Mixture
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Optimization
from msd_ray.ranges import Images, Sigma, Weight


@dataclass(frozen=True)
class Drawn(Draft):
    """x: a point of one expert each. mixture: in the units of x, with its graph. expert: [B]."""

    mixture: Mixture | None = None
    expert: Tensor | None = None


@dataclass(frozen=True)
class VDD:
    """highest, lowest: noise levels at which the teacher's score is asked for; from the first to the last it falls
    geometrically in the first `falling` images, and stays. gate: weight of the gate's loss."""

    noise: Noise = Noise()
    highest: Sigma = 0.2
    lowest: Sigma = 0.01
    falling: Images = 64_000
    gate: Weight = 1.0

    def __post_init__(self) -> None:
        if self.lowest > self.highest:
            raise ValueError("lowest must be at most highest")

    @property
    def needs(self) -> Needs:
        return Needs(real_data=True, fake=False, optimization=Optimization("adam", weight_decay=0.0))

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        mixture = _mixture(nets, self.noise, batch.condition)
        n, experts = mixture.log_gate.shape
        expert = torch.randint(experts, (n,), generator=rng, device=batch.z.device)
        rows = torch.arange(n, device=batch.z.device)
        x = mixture.mean[rows, expert] + (mixture.scale[rows, expert] @ batch.z[..., None])[..., 0]
        sigma = torch.full((n,), self._level(batch.seen), dtype=x.dtype, device=x.device)
        return Drawn(x, x.detach(), sigma, batch.condition, mixture=mixture, expert=expert)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert isinstance(draft, Drawn) and draft.mixture is not None and draft.expert is not None
        assert teacher_x0 is not None and batch.real is not None and batch.real_condition is not None
        mixture, rows = draft.mixture, torch.arange(len(draft.x), device=draft.x.device)
        score = (teacher_x0 - draft.x_t) / draft.sigma[:, None] ** 2
        responsible = mixture.detached().log_joint(draft.x).log_softmax(1)[rows, draft.expert]
        entropy = mixture.log_determinant[rows, draft.expert]
        share = mixture.log_gate.detach().exp()[rows, draft.expert] * mixture.log_gate.shape[1]
        experts = -(share * ((score.detach() * draft.x).sum(1) + responsible + entropy)).mean()
        of_real = _mixture(nets, self.noise, batch.real_condition)
        owners = of_real.detached().log_joint(batch.real).softmax(1)
        gate = -(owners * of_real.log_gate).sum(1).mean()
        return Loss(experts + self.gate * gate, {"experts": experts.detach(), "gate": gate.detach()})

    def _level(self, seen: int) -> float:
        share = min(1.0, seen / self.falling)
        return float(self.highest ** (1 - share) * self.lowest**share)


def _mixture(nets: Nets, noise: Noise, condition: Tensor) -> Mixture:
    """In the units of samples: the network's output times c_out; what the generator adds of its input, c_skip, counts
    for nothing at a high sigma_init."""
    network = nets.generator.network
    if not isinstance(network, GaussianMixture):
        raise UserError("vdd trains students of Gaussian experts; write student.experts=8")
    generator, sigma = nets.generator, torch.tensor([noise.sigma_init], dtype=torch.float64)
    how = generator.preconditioning.coefficients(sigma, generator.sigma_data, generator.sigma_min)
    made, c_out = network.mixture(condition), float(how.c_out)
    return Mixture(made.log_gate, c_out * made.mean, c_out * made.scale)
