"""DM, ADM and DMD against a re-derivation with explicit loops, and against closed-form scores."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Noise, per_sample
from msd_ray.objectives import ADM, DM, DMD, OBJECTIVES, Batch, Nets, Objective
from msd_ray.objectives.discriminators import discriminator_head
from msd_ray.objectives.dm import matching_loss

from .cases import (
    NOISE,
    SPECS,
    B,
    Case,
    denoised,
    expected_directions,
    expected_score_loss,
    fake_loss,
    fake_parameters,
    generator_gradient,
    generator_loss,
    generator_parameters,
    gradients,
    huber,
    logits,
    made,
    noised,
    pulled,
    rng,
    same,
    same_loss,
    softplus,
)


def expected_pull(case: Case, x: Tensor, source: torch.Generator) -> tuple[float, Tensor]:
    x_t, sigmas = noised(x.detach(), 20, 980, source)
    return pulled(x, expected_directions(case, x.detach(), x_t, sigmas))


def test_dm_generator_loss_is_dmd2s(case: Case) -> None:
    loss, ours = generator_gradient(case, DM(NOISE))
    value, pull = expected_pull(case, made(case), rng())
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(value, rel=1e-7)
    same(ours, gradients(pull, generator_parameters(case)))


def test_adm_generator_loss_adds_the_gan(case: Case) -> None:
    loss, ours = generator_gradient(case, ADM(NOISE, generator_weight=0.7))
    source, x = rng(), made(case)
    value, pull = expected_pull(case, x, source)
    gan = softplus(logits(case.nets, x, case.batch.condition, source), -1)
    assert loss.item() == pytest.approx(value + 0.7 * gan.item(), rel=1e-7)
    same(ours, gradients(pull + 0.7 * gan, generator_parameters(case)))


@pytest.mark.parametrize("kind", ["huber", "l2"])
def test_dmd_generator_loss_adds_the_regression(case: Case, kind: str) -> None:
    loss, ours = generator_gradient(case, DMD(NOISE, regression_weight=0.6, distance=kind))
    value, pull = expected_pull(case, made(case), rng())
    pairs = case.batch.pairs
    assert pairs is not None
    x = denoised(case.nets.generator, NOISE.sigma_init * pairs.z, [NOISE.sigma_init] * B, pairs.condition)
    apart = [huber(x[i], pairs.x[i]) if kind == "huber" else ((x[i] - pairs.x[i]) ** 2).mean() for i in range(B)]
    regression = torch.stack(apart).mean()
    assert loss.item() == pytest.approx(value + 0.6 * regression.item(), rel=1e-7)
    same(ours, gradients(pull + 0.6 * regression, generator_parameters(case)))


@pytest.mark.parametrize("objective", [DM(NOISE), DMD(NOISE)])
def test_dm_fake_loss_is_the_weighted_denoising_error(case: Case, objective: DM | DMD) -> None:
    loss = fake_loss(case, objective).total
    same_loss(loss, expected_score_loss(case, made(case).detach(), rng()), fake_parameters(case))


def test_adm_fake_loss_adds_the_classifier(case: Case) -> None:
    objective = ADM(NOISE, head_weight=0.3)
    loss = fake_loss(case, objective).total
    source, x = rng(), made(case).detach()
    expected = expected_score_loss(case, x, source)
    on_fake = logits(case.nets, x, case.batch.condition, source)
    on_real = logits(case.nets, case.real, case.real_condition, source)
    same_loss(loss, expected + 0.3 * (softplus(on_fake) + softplus(on_real, -1)), fake_parameters(case))


@pytest.mark.parametrize(
    "other", [ADM(NOISE, generator_weight=0.0, head_weight=0.0), DMD(NOISE, regression_weight=0.0)]
)
def test_adm_without_its_gan_and_dmd_without_its_regression_are_dm(case: Case, other: Objective) -> None:
    (loss, ours), (plain, others) = generator_gradient(case, DM(NOISE)), generator_gradient(case, other)
    assert loss.item() == plain.item()
    assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))
    fakes = [fake_loss(case, objective, case.nets).total.item() for objective in (DM(NOISE), other)]
    assert fakes[0] == fakes[1]


def test_parts_are_the_named_terms_detached(case: Case) -> None:
    generator = generator_loss(case, ADM(NOISE))
    fake = fake_loss(case, ADM(NOISE), case.nets)
    assert generator.total.item() == pytest.approx((generator.parts["dm"] + 3e-3 * generator.parts["gan"]).item())
    assert fake.total.item() == pytest.approx((fake.parts["fake_score"] + 1e-2 * fake.parts["head"]).item())
    assert not any(part.requires_grad for part in {**generator.parts, **fake.parts}.values())


def test_gradients_stay_in_their_networks(case: Case) -> None:
    """DM trains only the generator, although teacher and fake score have weights that would take a gradient."""
    generator_loss(case, DM(NOISE)).total.backward()
    for module in (case.teacher, case.nets.fake):
        assert all(p.grad is None for p in module.parameters())
    assert all(p.grad is not None for p in generator_parameters(case))
    case.nets.generator.zero_grad(set_to_none=True)
    fake_loss(case, ADM(NOISE)).total.backward()
    for module in (case.teacher, case.nets.generator):
        assert all(p.grad is None for p in module.parameters())
    assert all(p.grad is not None for p in fake_parameters(case))


# Closed forms: data N(mean, std^2 I) has score (mean - x_t) / (std^2 + sigma^2) and denoiser x_t + sigma^2 score.


def score(x_t: Tensor, sigma: Tensor, mean: Tensor, std: float) -> Tensor:
    return (mean - x_t) / (std**2 + per_sample(sigma, x_t) ** 2)


def gaussian_pair(mean: Tensor, std: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Generated x and the closed-form x0 of a teacher on N((1, 0), 0.5^2 I) and of a fake score on N(mean, std^2 I)."""
    source, goal = rng(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    x = mean + std * torch.randn(64, 2, generator=source, dtype=torch.float64)
    sigma = NOISE.draw(64, 20, 980, source).double()
    x_t = x + sigma[:, None] * torch.randn(64, 2, generator=source, dtype=torch.float64)
    s2, real, fake = sigma[:, None] ** 2, score(x_t, sigma, goal, 0.5), score(x_t, sigma, mean, std)
    return x.requires_grad_(True), x_t + s2 * real, x_t + s2 * fake, s2 * (fake - real)


def test_dm_follows_the_difference_of_the_closed_form_scores() -> None:
    x, teacher_x0, fake_x0, difference = gaussian_pair(torch.tensor([-1.0, 0.5], dtype=torch.float64), 0.2)
    (gradient,) = torch.autograd.grad(matching_loss(x, teacher_x0, fake_x0), x)
    size = (x - teacher_x0).abs().mean(dim=1, keepdim=True)
    assert torch.allclose(gradient, difference / size / x.numel(), rtol=1e-9)
    descent = -gradient.mean(dim=0)
    assert descent[0] > 0 > descent[1]  # towards the teacher's mean at (1, 0)


def test_dm_rests_where_the_generator_has_the_teachers_distribution() -> None:
    x, teacher_x0, fake_x0, _ = gaussian_pair(torch.tensor([1.0, 0.0], dtype=torch.float64), 0.5)
    loss = matching_loss(x, teacher_x0, fake_x0)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.item() == 0
    assert (gradient == 0).all()


def test_a_generator_that_already_agrees_with_the_teacher_divides_by_no_zero() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    loss = matching_loss(x, x.detach(), x.detach())
    assert loss.item() == 0


# Which noise levels are drawn.


class Recorder(EDMDenoiser):
    """A fake score or generator that records the noise levels it is asked at."""

    def __init__(self) -> None:
        super().__init__(SPECS["mlp"].build().network)
        self.sigmas: list[Tensor] = []

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        self.sigmas.append(sigma)
        return super().forward(x_t, sigma, condition)

    def bottleneck(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        self.sigmas.append(sigma)
        return super().bottleneck(x_t, sigma, condition)


def indices(sigmas: Tensor, noise: Noise) -> Tensor:
    index = torch.searchsorted(noise.grid(), sigmas)
    assert torch.equal(noise.grid()[index], sigmas)
    return index


@pytest.mark.parametrize("objective", [DM(Noise()), ADM(Noise())])
def test_noise_indices_are_uniform_in_dmd2s_ranges(objective: DM | ADM) -> None:
    torch.manual_seed(0)
    n, noise, source = 20_000, Noise(), rng()
    fake, head = Recorder(), discriminator_head((8,))
    nets = Nets(SPECS["mlp"].build(), fake, head)
    z, condition = torch.randn(n, 2), torch.zeros(n).long()
    batch = Batch(z, condition, z, condition)
    with torch.no_grad():
        draft = objective.draft(nets, batch, source)
        objective.generator_loss(nets, draft, batch, torch.zeros(n, 2), source)
        assert torch.equal(fake.sigmas[0], draft.sigma)  # teacher and fake score are compared on the same question
        drawn = [(draft.sigma, 20, 980), *((sigma, 0, 999) for sigma in fake.sigmas[1:])]
        fake.sigmas.clear()
        objective.fake_loss(nets, draft.x.detach(), batch, source)
    drawn += [(sigma, 0, 999) for sigma in fake.sigmas]
    assert len(drawn) == (2 if isinstance(objective, DM) else 5)
    for sigma, first, last in drawn:
        index = indices(sigma, noise)
        assert (int(index.min()), int(index.max())) == (first, last)
        assert index.float().mean().item() == pytest.approx((first + last) / 2, abs=5 * 289 / n**0.5)


@pytest.mark.parametrize("method", [m for m in OBJECTIVES.values() if "last" in {f.name for f in fields(m)}])
def test_a_range_up_to_the_whole_grid_is_allowed(method: Any) -> None:
    noise = Noise(levels=3)  # so the lowest is the first of the range, too
    objective = method(noise, last=1.0)
    nets = Nets(SPECS["mlp"].build(), SPECS["mlp"].build())
    draft = objective.draft(nets, Batch(torch.randn(100, 2), torch.zeros(100).long()), rng())
    assert torch.equal(draft.sigma.unique(), noise.grid())


NEEDS = {  # teacher, real_data, pairs, fake, head, encoder, memory, boundary, makes
    "dm": ("output", 0, 0, 1, 0, 0, 0, 0, "generator"),
    "adm": ("output", 1, 0, 1, 1, 0, 0, 0, "generator"),
    "tsm": ("output", 1, 0, 0, 0, 0, 0, 0, "denoiser"),
    "dmd": ("output", 0, 1, 1, 0, 0, 0, 0, "generator"),
    "sid": ("gradient", 0, 0, 1, 0, 0, 0, 0, "generator"),
    "sida": ("gradient", 1, 0, 1, 0, 0, 0, 0, "generator"),
    "uni-instruct": ("gradient", 1, 0, 1, 0, 0, 0, 0, "generator"),
    "gdd": ("none", 1, 0, 0, 1, 1, 0, 1, "generator"),
    "consistency": ("output", 1, 0, 0, 0, 0, 0, 1, "generator"),
    "f-distill": ("output", 1, 0, 1, 1, 0, 1, 0, "generator"),
    "moment-matching": ("none", 0, 0, 1, 0, 1, 0, 0, "generator"),
    "fd": ("none", 1, 0, 0, 0, 1, 1, 0, "generator"),
    "pd": ("output", 1, 0, 0, 0, 0, 0, 0, "generator"),
    "rdd": ("output", 1, 0, 0, 0, 1, 1, 0, "generator"),
    "sfddm": ("output", 1, 0, 0, 0, 1, 0, 0, "denoiser"),
    "multi-guidance": ("output", 1, 0, 0, 0, 0, 0, 0, "denoiser"),
    "boot": ("output", 0, 0, 0, 0, 0, 0, 0, "generator"),
    "pid": ("output", 0, 0, 0, 0, 0, 0, 0, "generator"),
    "o2mkd": ("output", 1, 0, 0, 0, 1, 0, 0, "denoiser"),
    "flow-trajectory": ("none", 0, 1, 0, 0, 0, 0, 0, "generator"),
    "dfosd": ("none", 1, 0, 0, 1, 1, 0, 0, "generator"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_needs(name: str) -> None:
    """Only where the teacher's gradient is needed does a remote teacher compute more than its output."""
    n = OBJECTIVES[name]().needs
    provided = (n.real_data, n.pairs, n.fake, n.head, n.encoder, n.memory, n.boundary)
    assert (n.teacher, *map(bool, provided), n.makes) == NEEDS[name]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_graph_reaches_the_teacher_unless_its_gradient_is_needed(case: Case, name: str) -> None:
    objective = OBJECTIVES[name](NOISE)
    draft = objective.draft(case.equip(objective), case.batch, rng())
    assert draft.x_t.requires_grad == (objective.needs.teacher == "gradient")
    assert draft.sigma.dtype == draft.x.dtype
    if objective.needs.teacher == "none":
        return
    asked_of_real_samples = objective.needs.real_data and not draft.x.requires_grad
    expected = case.real_condition if asked_of_real_samples else case.batch.condition
    assert torch.equal(draft.condition, expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_those_with_a_fake_score_or_a_discriminator_have_a_loss_for_it(name: str) -> None:
    assert hasattr(OBJECTIVES[name], "fake_loss") == bool(NEEDS[name][3] or NEEDS[name][4])
