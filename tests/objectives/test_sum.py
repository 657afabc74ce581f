"""Sums of objectives are the weighted sum of what each says alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.objectives import DM, DMD, Batch, Consistency, Loss, Nets, Objective, SiD, Sum

from .cases import (
    NOISE,
    Case,
    fake_loss,
    fake_parameters,
    generator_loss,
    generator_parameters,
    rng,
    same_loss,
)

TERMS: dict[str, dict[str, Any]] = {"consistency": {"levels": 6, "weight": 0.7}, "dm": {"weight": 0.3}}


def alone(case: Case, objective: Objective, source: torch.Generator) -> Loss:
    """Its loss with the networks as they are, where it draws from `source` in `draft` alone."""
    draft, follow_up = objective.draft(case.nets, case.batch, source), objective.needs.follow_up
    x0 = case.teacher(draft.x_t, draft.sigma, draft.condition)
    if follow_up:
        draft = follow_up(draft, x0.detach())
        x0 = case.teacher(draft.x_t, draft.sigma, draft.condition)
    return objective.generator_loss(case.nets, draft, case.batch, x0, source)


SUMS: list[tuple[dict[str, dict[str, Any]], list[tuple[float, Objective]]]] = [
    (TERMS, [(0.7, Consistency(NOISE, 6)), (0.3, DM(NOISE))]),
    (dict(reversed(TERMS.items())), [(0.3, DM(NOISE)), (0.7, Consistency(NOISE, 6))]),
    ({"sid": {"alpha": 1.0}, "consistency": {"levels": 6}}, [(1.0, SiD(NOISE, 1.0)), (1.0, Consistency(NOISE, 6))]),
    ({"consistency": {"levels": 6}, "dmd": {"weight": 2}}, [(1.0, Consistency(NOISE, 6)), (2.0, DMD(NOISE))]),
]


@pytest.mark.parametrize(("terms", "each"), SUMS, ids=["consistency+dm", "dm+consistency", "sid+consistency", "dmd"])
def test_the_loss_is_the_weighted_sum_in_value_and_gradient(
    case: Case, terms: Any, each: list[tuple[float, Objective]]
) -> None:
    loss, source = generator_loss(case, Sum(NOISE, terms)), rng()
    assert case.nets.generator.sigma_min == NOISE.sigma_min  # which consistency asks for
    found = [(weight, alone(case, objective, source)) for weight, objective in each]
    expected = torch.stack([weight * one.total for weight, one in found]).sum()
    same_loss(loss.total, expected, generator_parameters(case))
    assert loss.parts.keys() == {name for _, one in found for name in one.parts}
    assert not any(part.requires_grad for part in loss.parts.values())


def test_the_fake_score_trains_as_if_its_objective_were_alone(case: Case) -> None:
    together = fake_loss(case, Sum(NOISE, TERMS))
    expected = fake_loss(case, DM(NOISE), case.nets)
    same_loss(together.total, expected.total, fake_parameters(case))


def test_a_term_that_needs_no_gradient_gets_none_through_the_teacher(case: Case) -> None:
    objective = Sum(NOISE, {"sid": {}, "consistency": {"levels": 6}})
    assert objective.needs.teacher == "gradient"
    draft = objective.draft(case.equip(objective), case.batch, rng())
    assert draft.x_t.requires_grad and len(draft.x_t) == 2 * len(case.batch.z)
    assert objective.needs.follow_up is not None
    second = objective.needs.follow_up(draft, case.teacher(draft.x_t, draft.sigma, draft.condition))
    assert not second.x_t.requires_grad and len(second.x_t) == len(case.batch.z)


def test_a_sum_rests_where_the_generator_has_the_teachers_distribution() -> None:
    """DM at the teacher's Gaussian N(mean, s^2 I), and consistency at its fixed point, the end of the teacher's ODE:
    f(x_t; sigma) = mean + (x_t - mean) sqrt((s^2 + sigma_min^2) / (s^2 + sigma^2))."""
    mean, s = torch.tensor([1.0, 0.0], dtype=torch.float64), 0.5
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)

    def generator(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        shrunk = ((s**2 + NOISE.sigma_min**2) / (s**2 + sigma**2)).sqrt()[:, None]
        return mean + scale * shrunk * (x_t - mean)

    def teacher(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return (s**2 * x_t + sigma[:, None] ** 2 * mean) / (s**2 + sigma[:, None] ** 2)

    def gradient(wrong: float) -> float:
        """In the scale of the samples, where the target is the fixed point and the generator is `wrong` times that."""

        def off(*asked: Tensor) -> Tensor:
            return mean + wrong * (generator(*asked) - mean)

        nets = Nets(off, teacher, target=generator)  # type: ignore[arg-type]
        objective, source = Sum(NOISE, {"consistency": {"levels": 400}, "dm": {}}), rng()
        z, real = torch.randn(2, 256, 2, generator=source, dtype=torch.float64)
        batch = Batch(z, torch.zeros(256).long(), mean + s * real, torch.zeros(256).long())
        draft = objective.draft(nets, batch, source)
        assert objective.needs.follow_up is not None
        draft = objective.needs.follow_up(draft, teacher(draft.x_t, draft.sigma, draft.condition))
        answer = teacher(draft.x_t, draft.sigma, draft.condition)
        loss = objective.generator_loss(nets, draft, batch, answer, source)
        assert loss.parts["dm"] == 0  # whose fake score is the teacher
        return torch.autograd.grad(loss.total, scale)[0].item()

    assert abs(gradient(1.0)) < 0.05 < 0.3 < gradient(1.5)


REFUSED = [
    ({}, "a sum needs at least two objectives"),
    ({"dm": {}}, "a sum needs at least two objectives"),
    ({"dm": {}, "adm": {}}, "an objective with a discriminator cannot be summed"),
    ({"dm": {}, "sid": {}}, "two objectives that train a fake score cannot be summed"),
    ({"dm": {}, "tsm": {}}, "objectives that make a denoiser cannot be summed"),
    ({"consistency": {}, "pd": {"teacher": "before"}}, "two objectives with a target cannot be summed"),
    ({"dm": {}, "a:B": {}}, "there is no objective 'a:B' that can be summed, only dm, adm"),
    ({"dm": {}, "consistency": {"weight": 0}}, "terms.consistency.weight must be a number above 0, not 0"),
    ({"dm": {}, "consistency": {"weight": float("nan")}}, "terms.consistency.weight must be a number above 0"),
    ({"dm": {}, "consistency": {"heavy": 1}}, "terms.consistency: .*unexpected keyword argument 'heavy'"),
]


@pytest.mark.parametrize(("terms", "why"), REFUSED)
def test_sums_that_make_no_sense_are_refused(terms: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Sum(NOISE, terms)


def test_needs_are_those_of_all_terms() -> None:
    needs = Sum(NOISE, TERMS).needs
    assert (needs.teacher, needs.real_data, needs.fake, needs.boundary) == ("output", True, True, True)
    assert (needs.target_decay, needs.makes, needs.few_steps) == (0.95, "generator", True)
    assert needs.optimization == DM().needs.optimization
    assert not Sum(NOISE, {"consistency": {}, "dmd": {}}).needs.few_steps
