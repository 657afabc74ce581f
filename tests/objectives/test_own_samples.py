"""DDIL: a share of each batch begins where the student's own steps lead."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.objectives import PD, Consistency

from .cases import NOISE, B, Case, at_levels, denoised, generator_loss, made, rng


def asked(case: Case, objective: Any) -> tuple[Tensor, list[float], Tensor]:
    """Where the teacher is asked, at which levels and for which conditions."""
    draft = objective.draft(case.equip(objective), case.batch, rng())
    return draft.x_t, draft.sigma.tolist(), draft.condition


def mixed(own: Tensor, real: Tensor, n: int) -> Tensor:
    return torch.cat([own[:n], real[n:]])


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_consistency_noises_its_own_samples(case: Case, share: float, n: int) -> None:
    objective = Consistency(NOISE, 6, own=share)
    x_t, sigmas, condition = asked(case, objective)
    source = rng()
    torch.randint(1, 6, (B,), generator=source)
    own = made(case)
    assert torch.equal(condition, mixed(case.batch.condition, case.real_condition, n))
    assert torch.allclose(x_t, at_levels(mixed(own, case.real, n), sigmas, source))
    assert not x_t.requires_grad


def state_of(case: Case, i: int, levels: list[float], at: float) -> Tensor:
    """Of sample i, by the student's steps of DDIM from the highest level down to `at`."""
    one, x = slice(i, i + 1), levels[0] * case.batch.z[i : i + 1]
    for level, below in pairwise(levels):
        if level > at * (1 + 1e-6):
            x0 = denoised(case.nets.generator, x, [level], case.batch.condition[one])
            x = x0 + below / level * (x - x0)
    return x


@pytest.mark.parametrize("who", ["frozen", "before"])
@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_progressive_distillation_takes_its_own_steps(case: Case, share: float, n: int, who: Any) -> None:
    steps = 3
    objective = PD(NOISE, steps, who, own=share)
    x_t, sigmas, condition = asked(case, objective)
    levels = replace(NOISE, steps=2 * steps).step_levels[::2]
    source = rng()
    torch.randint(1, steps + 1, (B,), generator=source)
    own = torch.cat([state_of(case, i, [*levels, 0.0], sigmas[i]) for i in range(B)])
    assert len(set(sigmas)) > 1
    assert torch.allclose(x_t, mixed(own, at_levels(case.real, sigmas, source), n))
    assert torch.equal(condition, mixed(case.batch.condition, case.real_condition, n))


def test_a_student_that_knows_a_single_sample_goes_straight_to_it() -> None:
    where = torch.tensor([0.3, -0.7], dtype=torch.float64)
    objective, case = PD(NOISE, 4, own=1.0), Case("mlp")
    nets: Any = replace(case.nets, generator=lambda x, *_: where.expand_as(x))  # type: ignore[arg-type]
    draft = objective.draft(nets, case.batch, rng())
    sigma = draft.sigma[:, None]
    assert torch.allclose(draft.x_t, (1 - sigma / NOISE.sigma_init) * where + sigma * case.batch.z)


def test_the_target_and_the_loss_are_for_the_same_conditions(case: Case) -> None:
    for objective in (Consistency(NOISE, 6, own=0.5), PD(NOISE, 2, "before", own=0.5), PD(NOISE, 2, own=0.5)):
        assert generator_loss(case, objective).total > 0
