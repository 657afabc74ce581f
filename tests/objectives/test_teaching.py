"""TSM, O2MKD and consistency distillation: the student learns what the teacher says of noised real samples."""

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Noise, per_sample
from msd_ray.objectives import O2MKD, SFDDM, TSM, Batch, Consistency, Nets, Objective
from msd_ray.objectives.o2mkd import similarity

from .cases import (
    NOISE,
    B,
    Case,
    at_levels,
    denoised,
    features,
    generator_gradient,
    generator_loss,
    generator_parameters,
    huber,
    indices,
    karras,
    lognormal,
    noised,
    rng,
    same_loss,
    weighted_by_edm,
)


@pytest.mark.parametrize(("p_mean", "p_std"), [(-1.2, 1.2), (0.3, 0.7)])
def test_tsm_is_edms_weighted_error_against_the_teacher(case: Case, p_mean: float, p_std: float) -> None:
    loss = generator_loss(case, TSM(NOISE, p_mean, p_std)).total
    source = rng()
    sigmas = lognormal(source, p_mean, p_std)
    question = at_levels(case.real, sigmas, source), sigmas, case.real_condition
    error = denoised(case.nets.generator, *question) - denoised(case.teacher, *question).detach()
    same_loss(loss, weighted_by_edm(error, sigmas), generator_parameters(case))


def expected_similarity(rows: list[Tensor]) -> Tensor:
    """Inner products of all pairs of samples, each row over its length."""
    products = [[(a * b).sum() for b in rows] for a in rows]
    return torch.stack([torch.stack(row) / torch.sqrt(sum(p**2 for p in row)) for row in products])  # type: ignore[arg-type]


def test_o2mkd_adds_output_data_and_feature_terms(case: Case) -> None:
    loss = generator_loss(case, O2MKD(NOISE, data_weight=0.3, feature_weight=0.7))
    x_t, sigmas = noised(case.real, 0, 999, rng())
    question = x_t, sigmas, case.real_condition
    x0 = denoised(case.nets.generator, *question)
    output = weighted_by_edm(x0 - denoised(case.teacher, *question).detach(), sigmas)
    data = weighted_by_edm(x0 - case.real, sigmas)
    assert case.nets.encoder is not None
    ours, goal = (
        expected_similarity([maps[-1] for maps in features(denoiser, *question)])
        for denoiser in (case.nets.generator, case.nets.encoder)
    )
    feature = sum((ours[i, j] - goal[i, j]) ** 2 for i in range(B) for j in range(B)) / B**2
    same_loss(loss.total, output + 0.3 * data + 0.7 * feature, generator_parameters(case))
    expected = {"output_kd": output.item(), "data": data.item(), "feature_kd": feature.item()}
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(expected)


def test_o2mkd_without_its_feature_term_asks_for_no_encoder(case: Case) -> None:
    objective = O2MKD(NOISE, feature_weight=0.0)
    assert not objective.needs.encoder
    case.nets = Nets(case.nets.generator, case.nets.fake, target=case.nets.target)
    assert set(generator_loss(case, objective).parts) == {"output_kd", "data"}


def test_o2mkd_asks_at_the_levels_that_the_student_owns() -> None:
    noise, case = Noise(sigma_min=0.3, sigma_max=5.0, levels=9), Case("mlp")
    drafts = [O2MKD(noise).draft(case.nets, case.batch, torch.Generator().manual_seed(i)) for i in range(50)]
    assert torch.equal(torch.cat([d.sigma for d in drafts]).unique().float(), noise.grid())


def test_similarity_compares_networks_of_any_widths() -> None:
    narrow = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    wide = torch.cat([narrow, torch.zeros(3, 5)], dim=1).reshape(3, 7, 1, 1)
    assert torch.allclose(similarity(narrow), similarity(wide))
    assert torch.allclose(similarity(narrow).norm(dim=1), torch.ones(3))
    expected = torch.tensor([[1.0, 0.0, 3.0], [0.0, 4.0, 6.0], [3.0, 6.0, 18.0]])
    assert torch.allclose(similarity(narrow), expected / expected.norm(dim=1, keepdim=True))
    assert torch.allclose(similarity(5 * narrow), similarity(narrow))


@pytest.mark.parametrize("objective", [TSM(NOISE), O2MKD(NOISE, data_weight=0.0), SFDDM(NOISE)])
def test_the_loss_is_zero_where_the_student_is_the_teacher_and_only_there(case: Case, objective: Objective) -> None:
    assert case.nets.encoder is not None
    for network in (case.nets.generator, case.nets.encoder):
        network.load_state_dict(case.teacher.state_dict())
    loss, gradient = generator_gradient(case, objective)
    assert loss.item() == 0
    assert all((g == 0).all() for g in gradient)
    with torch.no_grad():
        generator_parameters(case)[0].add_(1e-3)
    assert generator_gradient(case, objective)[0].item() > 0


# Consistency distillation.


@pytest.mark.parametrize("kind", ["huber", "l2"])
def test_consistency_matches_neighbours_on_the_teachers_ode(case: Case, kind: Any) -> None:
    loss = generator_loss(case, Consistency(NOISE, levels=6, distance=kind)).total
    source = rng()
    drawn = indices(1, 5, source)
    sigmas, below = [karras(i, 6) for i in drawn], [karras(i - 1, 6) for i in drawn]
    x_t = at_levels(case.real, sigmas, source)
    teacher_x0 = denoised(case.teacher, x_t, sigmas, case.real_condition).detach()
    slopes = [(x_t[i] - teacher_x0[i]) / sigmas[i] for i in range(B)]
    euler = torch.stack([x_t[i] + (below[i] - sigmas[i]) * slopes[i] for i in range(B)])
    euler_x0 = denoised(case.teacher, euler, below, case.real_condition).detach()
    corrected = [(slopes[i] + (euler[i] - euler_x0[i]) / below[i]) / 2 for i in range(B)]
    x_below = torch.stack([x_t[i] + (below[i] - sigmas[i]) * corrected[i] for i in range(B)])
    assert case.nets.target is not None
    target = denoised(case.nets.target, x_below, below, case.real_condition).detach()
    f = denoised(case.nets.generator, x_t, sigmas, case.real_condition)
    apart = [huber(f[i], target[i]) if kind == "huber" else ((f[i] - target[i]) ** 2).mean() for i in range(B)]
    same_loss(loss, torch.stack(apart).mean(), generator_parameters(case))


def test_consistency_draws_every_level_but_the_lowest() -> None:
    case, objective = Case("mlp"), Consistency(NOISE, levels=5)
    drafts = [objective.draft(case.nets, case.batch, torch.Generator().manual_seed(i)) for i in range(50)]
    assert torch.equal(torch.cat([d.sigma for d in drafts]).unique().float(), NOISE.grid(5)[1:])


def test_no_gradient_reaches_average_and_teacher(case: Case) -> None:
    generator_loss(case, Consistency(NOISE)).total.backward()
    assert case.nets.target is not None
    assert all(p.grad is None for network in (case.teacher, case.nets.target) for p in network.parameters())


MEAN = torch.tensor([0.4, -0.7], dtype=torch.float64)


def teacher(x_t: Tensor, sigma: Tensor, std: float) -> Tensor:
    """The optimal denoiser of data N(MEAN, std^2 I)."""
    s2 = per_sample(sigma, x_t) ** 2
    return (std**2 * x_t + s2 * MEAN) / (std**2 + s2)


def exact(std: float) -> Any:
    """The ODE of that denoiser solved from sigma down to sigma_min: the exact consistency function."""

    def solved(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        s2 = per_sample(sigma, x_t) ** 2
        return MEAN + (x_t - MEAN) * ((std**2 + NOISE.sigma_min**2) / (std**2 + s2)).sqrt()

    return solved


def exact_loss(std: float, levels: int) -> float:
    source, objective = rng(), Consistency(NOISE, levels=levels, distance="l2")
    x, condition = MEAN + std * torch.randn(4000, 2, generator=source, dtype=torch.float64), torch.zeros(4000).long()
    nets, batch = Nets(exact(std), exact(std), target=exact(std)), Batch(x, condition, x, condition)
    return gaussian_loss(objective, nets, batch, std, source)


def gaussian_loss(objective: Consistency, nets: Nets, batch: Batch, std: float, source: torch.Generator) -> float:
    """The objective's loss under that teacher, who is asked twice."""
    first = objective.draft(nets, batch, source)
    draft = objective._one_level_below(first, teacher(first.x_t, first.sigma, std))
    return objective.generator_loss(nets, draft, batch, teacher(draft.x_t, draft.sigma, std), source).total.item()


def test_the_exact_consistency_function_has_no_loss_in_the_limit_of_many_levels() -> None:
    """A step of Heun errs by O(h^3), its square by O(h^6)."""
    losses = [exact_loss(0.5, levels) for levels in (41, 81, 161, 321)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(losses)]
    assert orders == pytest.approx([6, 6, 6], abs=0.4)


def test_for_data_in_one_point_it_has_no_loss_at_all() -> None:
    """The ODE's paths are straight lines, on which its steps are exact."""
    assert exact_loss(0.0, 5) < 1e-20


def test_a_function_that_is_not_consistent_has_a_loss() -> None:
    source, objective = rng(), Consistency(NOISE, levels=41, distance="l2")
    x, condition = MEAN + 0.5 * torch.randn(400, 2, generator=source, dtype=torch.float64), torch.zeros(400).long()
    wrong = exact(0.3)
    nets, batch = Nets(wrong, wrong, target=wrong), Batch(x, condition, x, condition)
    assert gaussian_loss(objective, nets, batch, 0.5, source) > 10 * exact_loss(0.5, 41)


def test_the_target_answers_and_not_the_generator(case: Case) -> None:
    before = generator_loss(case, Consistency(NOISE)).total.item()
    case.nets = Nets(case.nets.generator, case.nets.fake, target=copy.deepcopy(case.nets.generator))
    assert generator_loss(case, Consistency(NOISE)).total.item() != before
