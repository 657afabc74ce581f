"""f-distill: its weights, the ratio's average, and the gradients that follow."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Noise
from msd_ray.objectives import ADM, Batch, FDistill, Nets
from msd_ray.objectives.fdistill import BINS, density_ratio, density_weight

from .cases import (
    NOISE,
    B,
    Case,
    expected_directions,
    fake_loss,
    fake_parameters,
    generator_gradient,
    generator_loss,
    generator_parameters,
    gradients,
    indices,
    karras,
    logits,
    logits_at,
    made,
    noised,
    pulled,
    rng,
    same,
    softplus,
)

TABLE: dict[Any, Callable[[float], float]] = {
    "reverse-kl": lambda r: 1.0,
    "forward-kl": lambda r: r,
    "js": lambda r: 1 - 1 / (1 + r),
    "hellinger": lambda r: math.sqrt(r),
    "jeffreys": lambda r: 1 + r,
}


def ratio_of(logit: float) -> float:
    return min(max(math.exp(min(max(logit, -10.0), 10.0)), 0.1), 20.0)


def weights(logits: list[float], divergence: Any, averages: list[float] | None = None) -> list[float]:
    ratios = [ratio_of(g) / a for g, a in zip(logits, averages or [1.0] * len(logits), strict=True)]
    h = [TABLE[divergence](r) for r in ratios]
    return [value / (sum(h) / len(h)) for value in h]


LOGITS = [-30.0, -1.0, 0.0, 0.4, 2.0, 2.9, 3.1, 30.0]


@pytest.mark.parametrize("divergence", TABLE)
@pytest.mark.parametrize("average", [1.0, 2.5])
def test_weights_are_the_tables_and_have_mean_1(divergence: Any, average: float) -> None:
    ours = density_weight(torch.tensor(LOGITS, dtype=torch.float64), divergence, average)
    assert ours.tolist() == pytest.approx(weights(LOGITS, divergence, [average] * len(LOGITS)))
    assert ours.mean().item() == pytest.approx(1)


def test_the_ratio_is_clipped_and_has_no_gradient() -> None:
    g = torch.tensor([-torch.inf, -30.0, 0.0, 1.0, 30.0, torch.inf], requires_grad=True)
    ratio = density_ratio(g)
    assert ratio.tolist() == pytest.approx([0.1, 0.1, 1.0, math.e, 20.0, 20.0])
    assert not ratio.requires_grad


# The moving average of the ratio in each part of the noise grid.


def test_only_parts_that_were_hit_move_towards_the_mean_of_their_ratios() -> None:
    averages, ratios = torch.ones(BINS), torch.tensor([3.0, 5.0, 0.2])
    sigmas = torch.tensor([karras(i) for i in (250, 299, 999)])
    each = FDistill(memory=0.9)._average(averages, ratios, sigmas)
    expected = torch.ones(BINS)
    expected[2] = 0.9 * 1 + 0.1 * (3 + 5) / 2
    expected[9] = 0.9 * 1 + 0.1 * 0.2
    assert torch.allclose(averages, expected)
    assert torch.equal(averages[[0, 1, 3, 4, 5, 6, 7, 8]], torch.ones(8))
    assert torch.equal(each, averages[[2, 2, 9]])


@pytest.mark.parametrize("levels", [10, 37, 1000])
def test_parts_are_equally_long_pieces_of_the_grid(levels: int) -> None:
    noise = Noise(levels=levels)
    for index in range(levels):
        averages = torch.zeros(BINS)
        FDistill(noise, memory=0.5)._average(averages, torch.ones(1), noise.grid()[[index]].double())
        assert averages.nonzero().tolist() == [[index * 10 // levels]]


def test_a_ratio_that_is_no_number_leaves_no_trace() -> None:
    """The update is skipped by the trainer; a memory with a nan would end the training."""
    averages = torch.ones(BINS)
    FDistill(memory=0.9)._average(averages, torch.tensor([torch.nan, 3.0]), torch.tensor([karras(250), karras(999)]))
    expected = torch.ones(BINS)
    expected[9] = 1.2
    assert torch.allclose(averages, expected)


def test_the_average_converges_to_the_ratio() -> None:
    averages, sigma = torch.ones(BINS), torch.tensor([karras(500)])
    for _ in range(500):
        FDistill(memory=0.95)._average(averages, torch.tensor([4.0]), sigma)
    assert averages[5].item() == pytest.approx(4, rel=1e-4)


# The loss.


def expected_weights(
    case: Case, objective: FDistill, x_t: Tensor, sigmas: list[float], drawn: list[int]
) -> list[float]:
    """From memories of 1, which the batch moves first."""
    judged = [g.item() for g in logits_at(case.nets, x_t, sigmas, case.batch.condition)]
    averages = []
    for i in range(B):
        together = [ratio_of(judged[j]) for j in range(B) if drawn[j] // 100 == drawn[i] // 100]
        averages.append(objective.memory + (1 - objective.memory) * sum(together) / len(together))
    return weights(judged, objective.divergence, averages)


@pytest.mark.parametrize("divergence", TABLE)
def test_generator_loss_is_adms_with_weights(case: Case, divergence: Any) -> None:
    objective = FDistill(NOISE, generator_weight=0.7, divergence=divergence, memory=0.6)
    loss, ours = generator_gradient(case, objective)
    drawn, source, x = indices(20, 980, rng()), rng(), made(case)
    x_t, sigmas = noised(x.detach(), 20, 980, source)
    h = expected_weights(case, objective, x_t, sigmas, drawn)
    directions = expected_directions(case, x.detach(), x_t, sigmas)
    value, pull = pulled(x, [h[i] * directions[i] for i in range(B)])
    gan = softplus(logits(case.nets, x, case.batch.condition, source), -1)
    assert loss.item() == pytest.approx(value + 0.7 * gan.item(), rel=1e-5)  # the memory is float32
    expected = gradients(pull + 0.7 * gan, generator_parameters(case))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(ours, expected, strict=True))


def test_reverse_kl_is_adm(case: Case) -> None:
    loss, ours = generator_gradient(case, FDistill(NOISE, divergence="reverse-kl"))
    adm, others = generator_gradient(case, ADM(NOISE))
    assert loss.item() == adm.item()
    assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


def test_fake_loss_is_adms(case: Case) -> None:
    nets = case.equip(ADM(NOISE))
    ours, adm = (fake_loss(case, o, nets).total for o in (FDistill(NOISE, head_weight=0.2), ADM(NOISE)))
    assert ours.item() != adm.item()
    adm = fake_loss(case, ADM(NOISE, head_weight=0.2), nets).total
    assert ours.item() == adm.item()
    same(gradients(ours, fake_parameters(case)), gradients(adm, fake_parameters(case)))


def test_the_memory_is_the_one_among_the_networks() -> None:
    case = Case("mlp")
    generator_loss(case, FDistill(NOISE))
    hit = {i // 100 for i in indices(20, 980, rng())}
    assert {i for i, value in enumerate(case.nets.memory["ratio"].tolist()) if value != 1} == hit


# Closed forms: generator N(mean, std^2 I) and teacher N(GOAL, 0.5^2 I), whose noised densities have a known ratio.

GOAL = torch.tensor([1.0, 0.0], dtype=torch.float64)


class Gaussian:
    def __init__(self, mean: Tensor, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        s2 = sigma[:, None] ** 2
        return (self.std**2 * x_t + s2 * self.mean) / (self.std**2 + s2)

    def log_density(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        variance = self.std**2 + sigma**2
        return -((x_t - self.mean) ** 2).sum(dim=1) / (2 * variance) - torch.log(variance)

    def bottleneck(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return torch.cat([x_t, sigma[:, None]], dim=1)


class Made(Gaussian):
    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return (self.mean + self.std * x_t / sigma[:, None]).requires_grad_(True)


def descent(divergence: Any, mean: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Generated x and where f-distill moves each, with the discriminator that knows the ratio."""
    goal, fake, n = Gaussian(GOAL, 0.5), Gaussian(mean, std), 512

    def head(asked: Tensor) -> Tensor:
        x_t, sigma = asked[:, :2], asked[:, 2]
        return (goal.log_density(x_t, sigma) - fake.log_density(x_t, sigma))[:, None]

    memory = {"ratio": torch.ones(BINS)}
    nets: Any = Nets(Made(mean, std), fake, head=head, memory=memory)  # type: ignore[arg-type]
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    objective, batch, source = FDistill(NOISE, generator_weight=0.0, divergence=divergence), Batch(z, z[:, 0]), rng()
    draft = objective.draft(nets, batch, source)
    teacher_x0 = goal(draft.x_t, draft.sigma, draft.condition)
    (gradient,) = torch.autograd.grad(objective.generator_loss(nets, draft, batch, teacher_x0, source).total, draft.x)
    return draft.x.detach(), -gradient


@pytest.mark.parametrize("divergence", TABLE)
def test_under_every_divergence_descent_leads_to_the_teachers_distribution(divergence: Any) -> None:
    mean = torch.tensor([-0.5, 0.3], dtype=torch.float64)
    _, moved = descent(divergence, mean, 0.5)
    assert (moved @ (GOAL - mean) > 0).all()
    for std, sign in [(0.8, -1), (0.3, 1)]:  # too wide, too narrow
        x, moved = descent(divergence, GOAL, std)
        assert sign * (moved * (x - GOAL)).sum() > 0


@pytest.mark.parametrize("divergence", TABLE)
def test_it_rests_where_the_generator_has_the_teachers_distribution(divergence: Any) -> None:
    _, moved = descent(divergence, GOAL, 0.5)
    assert (moved == 0).all()


def test_forward_kl_pulls_hardest_on_samples_that_the_teacher_finds_likely() -> None:
    """This is what makes it cover modes, where reverse-kl, whose weights are all 1, seeks one."""
    mean = torch.tensor([-0.5, 0.0], dtype=torch.float64)
    (x, forward), (_, reverse) = descent("forward-kl", mean, 0.5), descent("reverse-kl", mean, 0.5)
    share = forward.norm(dim=1) / reverse.norm(dim=1)
    likely = x[:, 0] > x[:, 0].median()
    assert share[likely].mean() > 1.5 * share[~likely].mean()
    assert share.mean().item() == pytest.approx(1)
