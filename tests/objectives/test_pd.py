"""Progressive distillation against a re-derivation with explicit loops, and where its goal is known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Noise
from msd_ray.objectives import PD, Batch, Nets

from .cases import NOISE, B, Case, denoised, generator_loss, generator_parameters, rng, same_loss


def ddim(x_t: Tensor, x0: Tensor, sigma: float, below: float) -> Tensor:
    return x0 + below / sigma * (x_t - x0)


def expected(case: Case, steps: int, teacher: EDMDenoiser) -> Tensor:
    """x0 such that one step of DDIM to two levels below lands where the teacher's two steps do."""
    levels, source = [*Noise(sigma_init=2.5, steps=2 * steps).step_levels, 0.0], rng()
    starts = [2 * (steps - int(i)) for i in torch.randint(1, steps + 1, (B,), generator=source)]
    n = torch.randn(case.real.shape, generator=source, dtype=torch.float64)
    losses = []
    for i, at in enumerate(starts):
        one, (high, mid, low) = slice(i, i + 1), levels[at : at + 3]
        c, x_t = case.real_condition[one], case.real[one] + high * n[one]
        with torch.no_grad():
            between = ddim(x_t, denoised(teacher, x_t, [high], c), high, mid)
            after = ddim(between, denoised(teacher, between, [mid], c), mid, low)
            target = (after - low / high * x_t) / (1 - low / high)
        error = denoised(case.nets.generator, x_t, [high], c) - target
        losses.append(max(1 / high**2, 1) * (error**2).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("who", ["frozen", "before"])
def test_the_student_learns_two_steps_of_its_teacher(case: Case, steps: int, who: Any) -> None:
    loss = generator_loss(case, PD(NOISE, steps, who)).total
    teacher = case.teacher if who == "frozen" else case.nets.target
    assert teacher is not None
    same_loss(loss, expected(case, steps, teacher), generator_parameters(case))


def test_each_round_starts_at_every_second_level_of_the_one_before() -> None:
    for steps in (1, 2, 4, 8):
        few, many = (PD(Noise(), n)._levels(torch.zeros(1)).tolist() for n in (steps, 2 * steps))
        assert few == many[::2] and len(few) == 2 * steps + 1


def test_it_rests_where_one_step_lands_where_two_do() -> None:
    """For a teacher that knows a single sample, every step of DDIM points at it."""
    where = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)

    def knows(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return where.expand_as(x_t)

    def gradient(wrong: float) -> Tensor:
        nets: Any = Nets(lambda *asked: knows(*asked) + wrong, knows, target=knows)  # type: ignore[arg-type]
        objective, source, c = PD(NOISE, 2, "before"), rng(), torch.zeros(64).long()
        z, real = torch.randn(2, 64, 2, generator=source, dtype=torch.float64)
        batch = Batch(z, c, real, c)
        loss = objective.generator_loss(nets, objective.draft(nets, batch, source), batch, None, source)
        return torch.autograd.grad(loss.total, where)[0]

    assert gradient(0.0).abs().max() < 1e-9
    assert (gradient(0.5) > 0.5).all()
