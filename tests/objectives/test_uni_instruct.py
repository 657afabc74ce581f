"""Uni-Instruct against a re-derivation with explicit loops, and against the divergence itself where it is known."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from msd_ray.objectives import SiD, SiDA, UniInstruct
from msd_ray.objectives.fdistill import Divergence, h
from msd_ray.objectives.sid import teachers_error
from msd_ray.objectives.uni_instruct import expanded_loss

from .cases import (
    NOISE,
    B,
    Case,
    denoised,
    fake_loss,
    generator_gradient,
    generator_loss,
    generator_parameters,
    made,
    noised,
    rng,
    same,
    same_loss,
    softplus,
)
from .test_identity import Gaussian, gradient_in_x, logits

DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
ALONE = 10**6
"""Images after which the GAN joins: never here."""
WEIGHT_AND_ALPHA: dict[str, Callable[[Tensor], tuple[Tensor, Tensor | float]]] = {
    "reverse-kl": lambda r: (torch.ones_like(r), 0.5),
    "forward-kl": lambda r: (r, 1.0),
    "js": lambda r: (r / (1 + r), (2 + r) / (2 + 2 * r)),
    "hellinger": lambda r: (r**0.5, 0.75),
    "jeffreys": lambda r: (1 + r, (1 + 2 * r) / (2 + 2 * r)),
}


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_generators_loss_is_a_weighted_sid_and_the_gan(case: Case, divergence: Divergence) -> None:
    """Weight and alpha are functions of the density ratio, through which the gradient passes too."""
    objective = UniInstruct(NOISE, divergence, sid_weight=0.4, gan_weight=0.7, gan_from=0)
    loss = generator_loss(case, objective)
    x = made(case)
    x_t, sigmas = noised(x, 0, 799, rng())
    y_r = denoised(case.teacher, x_t, sigmas, case.batch.condition)
    y_f = denoised(case.nets.fake, x_t, sigmas, case.batch.condition)
    judged = logits(case.nets.fake, x_t, sigmas, case.batch.condition)
    losses, weights, share = [], 0.0, 0.0
    for i in range(B):
        weight, alpha = WEIGHT_AND_ALPHA[divergence](torch.exp(judged[i].mean()).clamp(0.1, 20))
        size = max((x[i] - y_r[i]).abs().mean().item(), 1e-5)
        elements = (y_r[i] - y_f[i]) * ((y_r[i] - x[i]) - alpha * (y_r[i] - y_f[i]))
        losses.append(weight * sum(element for element in elements.flatten()) / size)
        weights, share = weights + weight.item() / B, share + x[i].numel() / size / B
    expanded = torch.stack(losses).mean() / weights
    gan = softplus([places.clamp(-10, 10) for places in judged], -1)
    same_loss(loss.total, (0.4 * expanded + 0.7 * share * gan) / 2, generator_parameters(case))
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        {"expanded": expanded.item(), "gan": gan.item()}
    )


def test_the_reverse_kl_divergence_is_sid_with_alpha_a_half(case: Case) -> None:
    loss, ours = generator_gradient(case, UniInstruct(NOISE, "reverse-kl", sid_weight=1.0, gan_from=ALONE))
    expected, theirs = generator_gradient(case, SiD(NOISE, 0.5))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    same(ours, theirs)


def test_the_fake_score_and_the_discriminator_learn_as_sidas(case: Case) -> None:
    ours, theirs = (fake_loss(case, method(NOISE, head_weight=0.3)).total for method in (UniInstruct, SiDA))
    assert ours.item() == theirs.item()


# Closed forms in one dimension: teacher N(MEAN, STD^2), generator N(mean, std^2), at one noise level.

MEAN, STD, SIGMA = 0.4, 0.5, 0.7


def log_density(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    variance = torch.as_tensor(std, dtype=torch.float64) ** 2 + SIGMA**2
    return -((x - mean) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2


def expansion(mean: Tensor, std: Tensor, divergence: Divergence) -> Tensor:
    """E_p[h(q / p) (d log(q / p) / dx)^2], by the trapezoidal rule."""
    x = torch.linspace(-16, 16, 8001, dtype=torch.float64)
    log_p, log_r = log_density(x, mean, std), log_density(x, MEAN, STD) - log_density(x, mean, std)
    slope = (x - mean) / (std**2 + SIGMA**2) - (x - MEAN) / (STD**2 + SIGMA**2)
    return torch.trapezoid(log_p.exp() * h(log_r.exp(), divergence) * slope**2, x)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_gradient_is_that_of_the_divergence_at_each_level(divergence: Divergence) -> None:
    """In the generator's mean and width, with a fake score and a ratio that are exact: by quadrature over z and n."""
    mean, std = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.3, 0.8))
    expected = torch.autograd.grad(expansion(mean, std, divergence), (mean, std))
    nodes, weights = map(torch.from_numpy, hermegauss(80))
    z, n = torch.cartesian_prod(nodes, nodes)[:, :, None].unbind(1)
    weight = torch.cartesian_prod(weights, weights).prod(dim=1)
    x = mean + std * z
    x_t, known = x + SIGMA * n, (mean.item(), std.item())
    sigma = torch.full((len(z),), SIGMA, dtype=torch.float64)
    y_r, y_f = (Gaussian(torch.tensor([m]).double(), s)(x_t, sigma, sigma) for m, s in ((MEAN, STD), known))
    ratio = (log_density(x_t, MEAN, STD) - log_density(x_t, *known)).exp()[:, 0]
    losses = expanded_loss(x, y_r, y_f, ratio, divergence) * teachers_error(x, y_r)
    ours = torch.autograd.grad((weight * losses).sum() / weight.sum(), (mean, std))
    for a, b in zip(ours, expected, strict=True):
        assert 2 * a.item() / SIGMA**4 == pytest.approx(b.item(), rel=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_loss_and_gradient_vanish_where_the_generator_has_the_teachers_distribution(divergence: Divergence) -> None:
    loss, gradient, _, _ = gradient_in_x(UniInstruct(NOISE, divergence, sid_weight=1.0, gan_from=ALONE), Gaussian())
    assert loss.item() == 0
    assert gradient.abs().max() < 1e-15
