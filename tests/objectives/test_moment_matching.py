"""Moment matching against a re-derivation with explicit loops, and where the means are known in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Noise
from msd_ray.objectives import Batch, MomentMatching, Nets

from .cases import (
    NOISE,
    B,
    Case,
    denoised,
    fake_loss,
    fake_parameters,
    generator_loss,
    generator_parameters,
    gradients,
    made,
    noised,
    rng,
    same,
    same_loss,
)
from .test_identity import GOAL, Gaussian, Made


def weights(sigmas: list[float]) -> list[float]:
    return [1 / s**2 + 1 / 0.5**2 for s in sigmas]


def asked_of(case: Case, x: Tensor) -> tuple[list[float], Tensor, Tensor]:
    """The levels, and what fake score and frozen teacher say of the noised samples."""
    x_t, sigmas = noised(x.detach(), 0, 999, rng())
    fake, teacher = (
        denoised(network, x_t, sigmas, case.batch.condition) for network in (case.nets.fake, case.nets.encoder)
    )
    return sigmas, fake, teacher


def test_the_generator_follows_the_difference_of_the_means(case: Case) -> None:
    loss = generator_loss(case, MomentMatching(NOISE))
    x = made(case)
    sigmas, fake, teacher = asked_of(case, x)
    total = sum(
        w * (element * apart.detach()).sum()
        for w, element, apart in zip(weights(sigmas), x, fake - teacher, strict=True)
    )
    same_loss(loss.total, total / x.numel(), generator_parameters(case))  # type: ignore[arg-type, operator]
    assert loss.parts["moments_apart"].item() == pytest.approx((fake - teacher).square().mean().item())


@pytest.mark.parametrize("hold", [0.0, 1.0, 0.3])
def test_the_fake_score_is_held_to_the_teacher(case: Case, hold: float) -> None:
    loss = fake_loss(case, MomentMatching(NOISE, hold))
    x = made(case).detach()
    sigmas, fake, teacher = asked_of(case, x)
    teacher = teacher.detach()
    each = [
        w * ((fake[i] - x[i]) ** 2 + hold * (fake[i] - teacher[i]) ** 2).mean() for i, w in enumerate(weights(sigmas))
    ]
    same_loss(loss.total, torch.stack(each).sum() / B, fake_parameters(case))


def test_neither_trains_the_teacher_nor_each_other(case: Case) -> None:
    generator_loss(case, MomentMatching(NOISE)).total.backward()
    assert all(p.grad is None for p in case.nets.fake.parameters())
    assert all(p.grad is not None for p in generator_parameters(case))
    for parameter in generator_parameters(case):
        parameter.grad = None
    fake_loss(case, MomentMatching(NOISE)).total.backward()
    assert all(p.grad is None for p in generator_parameters(case))


def test_without_hold_the_fake_score_learns_as_dms(case: Case) -> None:
    from msd_ray.objectives import DM

    ours, theirs = (fake_loss(case, objective) for objective in (MomentMatching(NOISE, 0.0), DM(NOISE)))
    assert ours.total.item() == theirs.total.item()
    parameters = fake_parameters(case)
    same(gradients(ours.total, parameters), gradients(theirs.total, parameters))


# Gaussians: data N(GOAL, 0.5^2 I), whose means given a noised sample are known.


def gradient_in_x(mean: Tensor, std: float, n: int = 4000) -> tuple[Tensor, Tensor]:
    nets: Any = Nets(Made(mean, std), Gaussian(mean, std), encoder=Gaussian())  # type: ignore[arg-type]
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch, source, objective = Batch(z, torch.zeros(n).long()), rng(), MomentMatching(NOISE)
    draft = objective.draft(nets, batch, source)
    loss = objective.generator_loss(nets, draft, batch, None, source).total
    return torch.autograd.grad(loss, draft.x)[0], draft.x.detach()


def test_the_generator_rests_where_it_has_the_teachers_distribution() -> None:
    gradient, _ = gradient_in_x(GOAL, 0.5)
    assert gradient.abs().max() == 0


def test_descent_leads_to_the_teachers_mean_and_width() -> None:
    away = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    gradient, _ = gradient_in_x(away, 0.5)
    assert (-gradient @ (GOAL - away) > 0).all()
    for std, sign in [(0.9, -1), (0.3, 1)]:
        gradient, x = gradient_in_x(GOAL, std)
        assert sign * (-gradient * (x - GOAL)).sum().item() > 0


def test_the_fake_score_rests_halfway() -> None:
    """Of a sample that is always the same: its mean and the teacher's, each with half of the weight."""

    class Constant:
        def __init__(self, value: Tensor) -> None:
            self.value = value

        def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
            return self.value.expand_as(x_t)

    there, x = torch.tensor([3.0, -1.0]).double(), torch.tensor([1.0, 1.0]).double()
    value = ((there + x) / 2).requires_grad_(True)
    nets: Any = Nets(None, Constant(value), encoder=Constant(there))  # type: ignore[arg-type]
    batch = Batch(torch.zeros(8, 2).double(), torch.zeros(8).long())
    loss = MomentMatching(Noise()).fake_loss(nets, x.expand(8, 2), batch, rng()).total
    assert torch.autograd.grad(loss, value)[0].abs().max() < 1e-9 * loss.item()
