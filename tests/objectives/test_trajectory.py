"""BOOT and PID against re-derivations with explicit loops, and where the trajectory is known in closed form."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Noise, NoiseTable, one_step
from msd_ray.objectives import BOOT, PID, Batch, Nets
from msd_ray.objectives.trajectory import signal, times

from .cases import NOISE, B, Case, denoised, generator_loss, generator_parameters, huber, karras, rng, same_loss

TOP = NOISE.sigma_init
Method = type[BOOT] | type[PID]


def grid(levels: int) -> list[float]:
    """Karras' between 0.002 and sigma_init."""
    found = [(0.002 ** (1 / 7) + i / (levels - 1) * (TOP ** (1 / 7) - 0.002 ** (1 / 7))) ** 7 for i in range(levels)]
    return [torch.tensor(t).float().item() for t in found]


def said(case: Case, i: int, t: float) -> Tensor:
    """What the generator says of sample i of the point at t."""
    level = TOP * 16.0 ** -(math.log(t / 0.002) / math.log(TOP / 0.002))
    one = slice(i, i + 1)
    return denoised(case.nets.generator, level * case.batch.z[one], [level], case.batch.condition[one])


def taught(case: Case, i: int, y: Tensor, t: float) -> Tensor:
    one = slice(i, i + 1)
    return denoised(case.teacher, y + t * case.batch.z[one], [t], case.batch.condition[one]).detach()


def expected_boot(case: Case, levels: int) -> Tensor:
    t, losses = grid(levels), []
    for i, index in enumerate(torch.randint(levels, (B,), generator=rng()).tolist()):
        if index == levels - 1:
            step, target = 1.0, taught(case, i, torch.zeros_like(case.batch.z[:1]), TOP)
        else:
            above = said(case, i, t[index + 1]).detach()
            x0 = taught(case, i, above, t[index + 1])
            step = 1 - t[index] / t[index + 1]
            target = above + step * (x0 - above)
        losses.append((((said(case, i, t[index]) - target) / step) ** 2).mean())
    return torch.stack(losses).mean()


def expected_pid(case: Case, levels: int) -> Tensor:
    def point(i: int, at: float) -> Tensor:
        return (1 - at / TOP) * said(case, i, at)

    t, losses = grid(levels), []
    for i, index in enumerate(torch.randint(levels, (B,), generator=rng()).tolist()):
        here, near = t[index], t[index - 1] if index else t[1]
        y = point(i, here)
        slope = (y - point(i, near)) / (here - near)
        losses.append(huber(y - here * slope, taught(case, i, y.detach(), here)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("levels", [2, 5, 40])
def test_boot_is_as_derived(case: Case, levels: int) -> None:
    same_loss(generator_loss(case, BOOT(NOISE, levels)).total, expected_boot(case, levels), generator_parameters(case))


@pytest.mark.parametrize("levels", [2, 5, 40])
def test_pid_is_as_derived(case: Case, levels: int) -> None:
    same_loss(generator_loss(case, PID(NOISE, levels)).total, expected_pid(case, levels), generator_parameters(case))


def test_the_points_are_those_of_the_grid_and_the_lowest_is_the_sample() -> None:
    assert times(Noise(), 1000, torch.zeros(1)).tolist() == [karras(i) for i in range(1000)]
    asked = []

    def generator(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        asked.append((x, sigma))
        return x

    z, condition = torch.randn(3, 2), torch.zeros(3).long()
    signal(generator, Noise(), z, torch.tensor([0.002, 0.4, 80.0]), condition)
    one_step(generator, z, condition, 80.0)
    (x, sigma), (start, level) = asked
    assert torch.equal(x[0], start[0]) and sigma[0] == level[0] == 80
    assert sigma[0] > sigma[1] > sigma[2] == pytest.approx(5.0) and torch.allclose(x, sigma[:, None] * z)


def loss_of(objective: Any, generator: Any, teacher: Any) -> Tensor:
    """On noise of two dimensions."""
    source, n = rng(), 256
    nets: Any = Nets(generator, generator)
    batch = Batch(torch.randn(n, 2, generator=source, dtype=torch.float64), torch.zeros(n).long())
    draft = objective.draft(nets, batch, source)
    x0 = teacher(draft.x_t, draft.sigma, draft.condition).detach()
    loss: Tensor = objective.generator_loss(nets, draft, batch, x0, source).total
    return loss


@pytest.mark.parametrize("method", [BOOT, PID])
def test_it_rests_where_the_teacher_knows_a_single_sample(method: Method) -> None:
    """Its trajectories are straight, so that differences are exact."""
    where = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)

    def gradient(wrong: float) -> Tensor:
        loss = loss_of(method(NOISE, 12), lambda x, *_: where.expand_as(x) + wrong, lambda x, *_: where.expand_as(x))
        return torch.autograd.grad(loss, where)[0]

    assert gradient(0.0).abs().max() < 1e-9
    assert (gradient(0.5) > 1e-2).all()


@pytest.mark.parametrize("method", [BOOT, PID])
def test_the_trajectory_of_a_gaussian_is_the_limit_of_fine_grids(method: Method) -> None:
    mean, std = torch.tensor([0.6, -0.3], dtype=torch.float64), 0.3

    def teacher(x: Tensor, sigma: Tensor, *_: Any) -> Tensor:
        s2 = sigma[:, None] ** 2
        return (std**2 * x + s2 * mean) / (std**2 + s2)

    def exact(x: Tensor, level: Tensor, *_: Any) -> Tensor:
        """The solution from TOP * z, as the student is to say it."""
        z = x / level[:, None]
        t = 0.002 * (TOP / 0.002) ** (torch.log(TOP / level) / math.log(16.0))[:, None]
        ratio = ((std**2 + t**2) / (std**2 + TOP**2)).sqrt()
        y = mean + (TOP * z - mean) * ratio - t * z
        at_top = teacher(TOP * z, torch.full((len(z),), TOP, dtype=torch.float64))
        if method is BOOT:
            return torch.where(t > TOP * 0.999999, at_top, y)
        return torch.where(t > TOP * 0.999999, at_top, y / (1 - t / TOP))

    coarse, fine = (float(loss_of(method(NOISE, levels), exact, teacher)) for levels in (40, 640))
    assert fine < 0.1 * coarse


@pytest.mark.parametrize("method", [BOOT, PID])
def test_a_table_of_steps_is_refused(method: Method) -> None:
    with pytest.raises(ValueError, match="any noise level"):
        method(Noise(sigma_min=0.03, sigma_max=14.0, sigma_init=14.0, table=NoiseTable(schedule="scaled_linear")))
