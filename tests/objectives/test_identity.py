"""SiD and SiDA against a re-derivation with explicit loops, and where the scores are known in closed form."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.objectives import Batch, Nets, SiD, SiDA
from msd_ray.objectives.sid import identity_loss

from .cases import (
    NOISE,
    B,
    Case,
    at_levels,
    denoised,
    expected_edm_loss,
    fake_loss,
    fake_parameters,
    features,
    generator_gradient,
    generator_loss,
    generator_parameters,
    karras,
    lognormal,
    made,
    noised,
    rng,
    same_loss,
    softplus,
)

ALPHAS = [0.5, 1.0, 1.2]


def expected_losses(
    case: Case, alpha: float, source: torch.Generator
) -> tuple[list[Tensor], Tensor, list[float], list[float]]:
    """Each sample's SiD loss; the noised samples, whose graph leads back to the generator, their levels, and what the
    loss was divided by."""
    x = made(case)
    x_t, sigmas = noised(x, 0, 799, source)
    y_r = denoised(case.teacher, x_t, sigmas, case.batch.condition)
    y_f = denoised(case.nets.fake, x_t, sigmas, case.batch.condition)
    losses, sizes = [], []
    for i in range(B):
        w = max((x[i] - y_r[i]).abs().mean().item(), 1e-5)
        sizes.append(w)
        elements = (y_r[i] - y_f[i]) * ((y_r[i] - x[i]) - alpha * (y_r[i] - y_f[i]))
        losses.append(sum(element for element in elements.flatten()) / w)
    return losses, x_t, sigmas, sizes  # type: ignore[return-value]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_sid_generator_loss_passes_through_both_networks(case: Case, alpha: float) -> None:
    loss = generator_loss(case, SiD(NOISE, alpha)).total
    losses, *_ = expected_losses(case, alpha, rng())
    same_loss(loss, torch.stack(losses).mean(), generator_parameters(case))


def test_sid_fake_loss_is_edms(case: Case) -> None:
    loss = fake_loss(case, SiD(NOISE)).total
    same_loss(loss, expected_edm_loss(case, made(case).detach(), rng()), fake_parameters(case))


def test_the_highest_noise_of_the_generators_loss_is_sids() -> None:
    assert karras(799) == pytest.approx(24.4, abs=0.2)


def logits(fake: EDMDenoiser, x_t: Tensor, sigmas: list[float], condition: Tensor) -> list[Tensor]:
    """Each sample's, one for each place of the bottleneck: the mean over its channels."""
    maps = [m[-1][0] for m in features(fake, x_t, sigmas, condition)]
    return [torch.stack([channels.mean() for channels in m.reshape(len(m), -1).T]) for m in maps]


RATIO = {"reverse-kl": lambda r: 1.0, "forward-kl": lambda r: r, "js": lambda r: 1 - 1 / (1 + r)}


@pytest.mark.parametrize("divergence", RATIO)
def test_sida_generator_loss_adds_the_gan_of_the_fake_scores_encoder(case: Case, divergence: Any) -> None:
    """Other divergences weight each sample by a function of the density ratio, which takes no gradient."""
    objective = SiDA(NOISE, sid_weight=0.4, gan_weight=0.7, gan_from=0, divergence=divergence)
    loss = generator_loss(case, objective)
    losses, x_t, sigmas, sizes = expected_losses(case, 1.0, rng())
    judged = logits(case.nets.fake, x_t, sigmas, case.batch.condition)
    ratios = [min(max(torch.exp(places.mean()).item(), 0.1), 20.0) for places in judged]
    h = [RATIO[divergence](r) for r in ratios]
    sid = sum(h[i] / (sum(h) / B) * losses[i] for i in range(B)) / B
    gan = softplus([places.clamp(-10, 10) for places in judged], -1)
    share = case.real[0].numel() * sum(1 / w for w in sizes) / B
    same_loss(loss.total, (0.4 * sid + 0.7 * share * gan) / 2, generator_parameters(case))
    assert {name: p.item() for name, p in loss.parts.items()} == pytest.approx({"sid": sid.item(), "gan": gan.item()})


def test_sida_fake_loss_adds_the_classifier(case: Case) -> None:
    """One logit for each place; the encoder of the fake score learns both."""
    loss = fake_loss(case, SiDA(NOISE, head_weight=0.3)).total
    x = made(case).detach()
    score = expected_edm_loss(case, x, rng())
    source = rng()
    sigmas = lognormal(source)
    noise = at_levels(torch.zeros_like(x), sigmas, source)  # the same for both
    on_fake = logits(case.nets.fake, x + noise, sigmas, case.batch.condition)
    on_real = logits(case.nets.fake, case.real + noise, sigmas, case.real_condition)
    weight = sum((s**2 + 0.25) / (0.5 * s) ** 2 for s in sigmas) / B
    same_loss(loss, score + 0.15 * weight * (softplus(on_fake) + softplus(on_real, -1)), fake_parameters(case))


def test_the_gan_joins_after_gan_from_images_and_halves_the_rest() -> None:
    case, totals = Case("mlp"), {}
    for seen in (0, 95, 96, 500):
        case.batch = replace(case.batch, seen=seen)
        loss = generator_loss(case, SiDA(NOISE, gan_from=96))
        totals[seen] = loss.total.item()
    sid, gan = (loss.parts[name].item() for name in ("sid", "gan"))
    assert totals[0] == totals[95] == pytest.approx(100 * sid)
    assert totals[96] == totals[500]
    assert (totals[96] - 50 * sid) / gan > 0.005  # some 2 elements over the teacher's error


def test_the_gan_is_a_fair_part_of_the_generators_gradient() -> None:
    """Beside SiD's sum over pixels one scalar was once a millionth of it: SiDA was SiD."""
    case = Case("unet")
    gradients = {
        weights: torch.cat(
            [g.flatten() for g in generator_gradient(case, SiDA(NOISE, 1.0, gan_from=0, **dict(weights)))[1]]
        )
        for weights in ((("gan_weight", 0.0),), (("sid_weight", 0.0),))
    }
    sid, gan = (g.norm().item() for g in gradients.values())
    assert 1e-4 < gan / sid < 1


def test_gradients_reach_no_weights_but_the_generators_when_the_others_are_frozen(case: Case) -> None:
    case.nets.fake.requires_grad_(False)
    case.teacher.requires_grad_(False)
    generator_loss(case, SiDA(NOISE)).total.backward()
    assert all(p.grad is not None for p in generator_parameters(case))
    assert all(p.grad is None for network in (case.teacher, case.nets.fake) for p in network.parameters())


# Closed forms: the optimal denoiser of N(mean, std^2 I) is a x_t + (1 - a) mean with a = std^2 / (std^2 + sigma^2).

GOAL, STD = torch.tensor([1.0, 0.0], dtype=torch.float64), 0.5


class Gaussian:
    """That denoiser; as a generator it makes N(mean, std^2 I) of noise in one step."""

    def __init__(self, mean: Tensor = GOAL, std: float = STD) -> None:
        self.mean, self.std = mean, std

    def keeps(self, sigma: Tensor) -> Tensor:
        return (self.std**2 / (self.std**2 + sigma**2))[:, None]

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        a = self.keeps(sigma)
        return a * x_t + (1 - a) * self.mean

    def bottleneck(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return x_t


class Made(Gaussian):
    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return (self.mean + self.std * x_t / sigma[:, None]).requires_grad_(True)


def gradient_in_x(objective: SiD | SiDA, fake: Gaussian, n: int = 256) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, its gradient in x, x and what was asked about it; the fake score knows the generator exactly."""
    nets: Any = Nets(Made(fake.mean, fake.std), fake)  # type: ignore[arg-type]
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch, source = Batch(z, torch.zeros(n).long(), step=0), rng()
    draft = objective.draft(nets, batch, source)
    teacher_x0 = Gaussian()(draft.x_t, draft.sigma, draft.condition)
    loss = objective.generator_loss(nets, draft, batch, teacher_x0, source).total
    (gradient,) = torch.autograd.grad(loss, draft.x)
    return loss, gradient, draft.x.detach(), torch.cat([draft.x_t.detach(), draft.sigma[:, None]], dim=1)


OBJECTIVES = [*(SiD(NOISE, alpha) for alpha in ALPHAS), SiDA(NOISE, sid_weight=1.0)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_the_product_rules(objective: SiD | SiDA) -> None:
    fake, alpha = Gaussian(torch.tensor([-1.0, 0.5], dtype=torch.float64), 0.3), objective.alpha
    _, gradient, x, asked = gradient_in_x(objective, fake)
    x_t, sigma, none = asked[:, :2], asked[:, 2], torch.empty(0)
    y_r, y_f = Gaussian()(x_t, sigma, none), fake(x_t, sigma, none)
    a, b = Gaussian().keeps(sigma), fake.keeps(sigma)  # dy/dx
    size = (x - y_r).abs().mean(dim=1, keepdim=True)
    expected = (a - b) * ((y_r - x) - alpha * (y_r - y_f)) + (y_r - y_f) * ((a - 1) - alpha * (a - b))
    assert torch.allclose(gradient, expected / size / len(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_descent_moves_the_generators_mean_towards_the_teachers(objective: SiD | SiDA) -> None:
    mean = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    _, gradient, _, _ = gradient_in_x(objective, Gaussian(mean))
    assert (-gradient @ (GOAL - mean) > 0).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("std", "sign"), [(0.9, -1), (0.3, 1)])
def test_descent_narrows_what_is_too_wide_and_widens_what_is_too_narrow(
    objective: SiD | SiDA, std: float, sign: int
) -> None:
    _, gradient, x, _ = gradient_in_x(objective, Gaussian(std=std), n=4000)
    assert sign * (-gradient * (x - GOAL)).sum().item() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_vanish_where_the_generator_has_the_teachers_distribution(objective: SiD | SiDA) -> None:
    loss, gradient, _, _ = gradient_in_x(objective, Gaussian())
    assert loss.item() == 0
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("alpha", ALPHAS)
def test_in_the_mean_the_loss_is_1_minus_alpha_times_the_squared_difference(alpha: float) -> None:
    """SiD's identity: with a perfect fake score E[d (y_r - x)] = E[d (y_r - y_f)] for any d that follows from x_t."""
    fake, source, n = Gaussian(torch.tensor([0.5, 0.5], dtype=torch.float64), 0.3), rng(), 400_000
    x = fake.mean + fake.std * torch.randn(n, 2, generator=source, dtype=torch.float64)
    sigma = torch.full((n,), 0.4, dtype=torch.float64)
    x_t = x + 0.4 * torch.randn(n, 2, generator=source, dtype=torch.float64)
    y_r, y_f = Gaussian()(x_t, sigma, sigma), fake(x_t, sigma, sigma)
    losses = identity_loss(x, y_r, y_f, alpha) * (x - y_r).abs().mean(dim=1)
    apart = ((y_r - y_f) ** 2).sum(dim=1)
    assert losses.mean().item() == pytest.approx((1 - alpha) * apart.mean().item(), abs=0.005)


def test_a_sample_on_which_the_teacher_agrees_divides_by_no_zero() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert identity_loss(x, x.detach(), x.detach(), 1.2).tolist() == [0, 0]
