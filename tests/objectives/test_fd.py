"""FD against a re-derivation in numpy and the closed form of Gaussians, and what its queues hold."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from msd_ray.objectives import FD, Batch, Nets
from msd_ray.objectives.fd import RIDGE

from .cases import NOISE, B, Case, at_levels, features, generator_loss, generator_parameters, gradients, made, rng

QUEUE = 6


def root(a: Any) -> Any:
    return np.real(scipy.linalg.sqrtm(a))


def expected(ours: Any, theirs: Any) -> tuple[float, Any]:
    """The distance between two sets of features [n, d] with the ridge, and its gradient in each of ours."""
    (m1, m2), (s1, s2) = ([f.mean(0) for f in (ours, theirs)], [np.cov(f.T, ddof=1) for f in (ours, theirs)])
    ridge = RIDGE * np.trace(s2) / len(s2) * np.eye(len(s2))
    s1, s2, n = s1 + ridge, s2 + ridge, len(ours)
    half = root(s2)
    distance = ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root(half @ s1 @ half))
    through = np.eye(len(s2)) - half @ np.linalg.inv(root(half @ s1 @ half)) @ half
    return distance, 2 * (m1 - m2) / n + 2 / (n - 1) * (ours - m1) @ through


def judged(case: Case, x: Tensor, condition: Tensor, of_teacher: bool, source: torch.Generator) -> Tensor:
    if not of_teacher:
        return x.flatten(1)
    assert case.nets.encoder is not None
    maps = features(case.nets.encoder, at_levels(x, [0.2] * B, source), [0.2] * B, condition)
    return torch.cat([each[-1].reshape(1, each[-1].shape[1], -1).mean(dim=2) for each in maps])


@pytest.mark.parametrize("kind", ["samples", "teacher"])
@pytest.mark.parametrize("known", [0, 3, 40])
def test_the_loss_is_the_distance_of_batch_and_queue(case: Case, kind: Any, known: int) -> None:
    """In value, and in the gradient of the batch alone, times the number of samples over that of the batch."""
    objective = FD(NOISE, kind, queue=QUEUE)
    nets = case.equip(objective)
    nets = replace(nets, memory={name: kept.double() for name, kept in nets.memory.items()})
    earlier = {name: torch.randn(nets.memory[name].shape, generator=rng()).double() for name in ("made", "real")}
    for name, kept in earlier.items():
        nets.memory[name].copy_(kept)
    nets.memory["filled"].fill_(1 + known)
    source, n = rng(), min(known, QUEUE)
    draft = objective.draft(nets, case.batch, source)
    loss = objective.generator_loss(nets, draft, case.batch, None, source)
    source = rng()
    x = judged(case, made(case), case.batch.condition, kind == "teacher", source)
    real = judged(case, case.real, case.real_condition, kind == "teacher", source)
    ours, theirs = (torch.cat([f, earlier[k][:n]]).detach().numpy() for k, f in (("made", x), ("real", real)))
    distance, gradient = expected(ours, theirs)
    assert loss.total.item() == pytest.approx(distance, rel=1e-5)
    assert loss.parts["fd"].item() == pytest.approx(distance, rel=1e-5)
    pull = (torch.from_numpy(gradient[:B]) * x).sum() * (B + n) / B
    ours_, theirs_ = (gradients(value, generator_parameters(case)) for value in (loss.total, pull))
    for a, b in zip(ours_, theirs_, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    if n == 3:  # the batch comes first, and the oldest leaves
        assert torch.allclose(nets.memory["made"], torch.cat([x.detach(), earlier["made"]])[:QUEUE])
        assert torch.allclose(nets.memory["real"], torch.cat([real.detach(), earlier["real"]])[:QUEUE])
        assert nets.memory["filled"] == 1 + known + B


class Shifted:
    """A generator of N(mean, scale^2 I) in two dimensions, whose mean and scale have a gradient."""

    def __init__(self, mean: float, scale: float) -> None:
        self.at = torch.tensor([mean, scale], dtype=torch.float64, requires_grad=True)

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.at[0] + self.at[1] * x_t / sigma[:, None]


def of_gaussians(mean: float, scale: float) -> tuple[float, Tensor]:
    """The loss against N(0, I) after many batches that filled the queue, and its gradient in mean and scale."""
    objective, source, n, generator = FD(NOISE, "samples", queue=20_000), rng(), 2000, Shifted(mean, scale)
    nets: Any = Nets(generator, None)  # type: ignore[arg-type]
    kept = objective.needs.memory(nets, (2,)).items()  # type: ignore[misc]
    nets = replace(nets, memory={name: torch.ones(shape, dtype=torch.float64) for name, shape in kept})
    for _ in range(11):
        z, real = torch.randn(2, n, 2, generator=source, dtype=torch.float64)
        batch = Batch(z, torch.zeros(n).long(), real, torch.zeros(n).long())
        loss = objective.generator_loss(nets, objective.draft(nets, batch, source), batch, None, source)
    return loss.total.item(), torch.autograd.grad(loss.total, generator.at)[0]


def test_of_gaussians_it_is_the_closed_form_and_rests_at_the_fixed_point() -> None:
    """|m1 - m2|^2 + d (s1 - s2)^2 with d = 2 dimensions that share their mean and their scale."""
    distance, gradient = of_gaussians(0.5, 1.5)
    assert distance == pytest.approx(2 * 0.25 + 2 * 0.25, rel=0.03)
    assert gradient.tolist() == pytest.approx([4 * 0.5, 4 * 0.5], rel=0.1)
    distance, gradient = of_gaussians(0.0, 1.0)
    assert distance == pytest.approx(0, abs=1e-3)
    assert gradient.abs().max() < 0.05


def test_a_batch_that_is_not_finite_does_not_enter_the_queue(case: Case) -> None:
    objective = FD(NOISE, queue=QUEUE)
    generator_loss(case, objective)
    kept = {name: value.clone() for name, value in case.nets.memory.items()}
    case.batch = replace(case.batch, z=torch.full_like(case.batch.z, torch.nan))
    draft = objective.draft(case.nets, case.batch, rng())
    loss = objective.generator_loss(case.nets, draft, case.batch, None, rng()).total
    assert loss.isnan() and not all(g.isfinite().all() for g in gradients(loss, generator_parameters(case)))
    assert all(torch.equal(value, kept[name]) for name, value in case.nets.memory.items())
