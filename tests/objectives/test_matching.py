"""DM and ADM against a re-derivation with explicit loops, and against closed-form scores."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, Noise, per_sample
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig, discriminator_head
from msd_ray.objectives import ADM, DM, OBJECTIVES, Batch, Nets
from msd_ray.objectives.dm import matching_loss

NOISE = Noise(sigma_init=2.5)
SPECS = {
    "mlp": DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 3),
    "unet": DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=()), (1, 4, 4), 3),
}
B = 4


class Case:
    """Generator, fake score, head and teacher of random float64 weights, and a batch."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.shape = SPECS[name].sample_shape
        generator, fake, self.teacher = (SPECS[name].build().double().eval() for _ in range(3))
        head = discriminator_head(fake.network.bottleneck_shape).double()
        for module in (generator, fake, self.teacher, head):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
        self.nets = Nets(generator, fake, head)
        z, real = torch.randn(2, B, *self.shape, dtype=torch.float64)
        self.batch = Batch(z, torch.tensor([0, 2, 1, 2]), real, torch.tensor([1, 1, 0, 2]))


@pytest.fixture(params=SPECS)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


# The re-derivation. It shares the raw networks and the order of the random draws with the code, and nothing else.


def karras(index: int) -> float:
    """methods.md: sigma(t) with t = 0 at sigma_max; index 0 of the 1000 is the smallest sigma."""
    t = 1 - index / 999
    sigma = (80 ** (1 / 7) + t * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return torch.tensor(sigma).float().item()  # grids are kept in float32


def noised(x: Tensor, first: int, last: int, source: torch.Generator) -> tuple[Tensor, list[float]]:
    sigmas = [karras(int(i)) for i in torch.randint(first, last + 1, (B,), generator=source)]
    n = torch.randn(x.shape, generator=source, dtype=torch.float64)
    return torch.stack([x[i] + sigmas[i] * n[i] for i in range(B)]), sigmas


def denoised(denoiser: EDMDenoiser, x_t: Tensor, sigmas: list[float], condition: Tensor) -> Tensor:
    out = []
    for i, s in enumerate(sigmas):
        c_noise = torch.tensor([math.log(s) / 4], dtype=torch.float64)
        f = denoiser.network(x_t[i : i + 1] / math.sqrt(s**2 + 0.25), c_noise, condition[i : i + 1])[0]
        out.append(0.25 / (s**2 + 0.25) * x_t[i] + s * 0.5 / math.sqrt(s**2 + 0.25) * f)
    return torch.stack(out)


def logits(nets: Nets, x: Tensor, condition: Tensor, source: torch.Generator) -> list[Tensor]:
    x_t, sigmas = noised(x, 0, 999, source)
    out = []
    for i, s in enumerate(sigmas):
        c_noise = torch.tensor([math.log(s) / 4], dtype=torch.float64)
        features = nets.fake.network.encode(x_t[i : i + 1] / math.sqrt(s**2 + 0.25), c_noise, condition[i : i + 1])
        assert nets.head is not None
        out.append(nets.head(features).squeeze())
    return out


def made(case: Case) -> Tensor:
    batch = case.batch
    return denoised(case.nets.generator, NOISE.sigma_init * batch.z, [NOISE.sigma_init] * B, batch.condition)


def expected_direction(case: Case, x: Tensor, source: torch.Generator) -> Tensor:
    """(p_real - p_fake) / mean_pixels|p_real| of DMD2."""
    x_t, sigmas = noised(x, 20, 980, source)
    with torch.no_grad():
        p_real = x - denoised(case.teacher, x_t, sigmas, case.batch.condition)
        p_fake = x - denoised(case.nets.fake, x_t, sigmas, case.batch.condition)
        return torch.stack([(p_real[i] - p_fake[i]) / p_real[i].abs().mean() for i in range(B)])


def generator_gradient(case: Case, objective: DM | ADM) -> tuple[Tensor, list[Tensor]]:
    source = rng()
    draft = objective.draft(case.nets, case.batch, source)
    teacher_x0 = case.teacher(draft.x_t, draft.sigma, draft.condition)
    loss = objective.generator_loss(case.nets, draft, case.batch, teacher_x0, source).total
    return loss, list(torch.autograd.grad(loss, list(case.nets.generator.parameters())))


def same(ours: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_dm_generator_loss_is_dmd2s(case: Case) -> None:
    loss, gradients = generator_gradient(case, DM(NOISE))
    x = made(case)
    direction = expected_direction(case, x.detach(), rng())
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(0.5 * (direction**2).mean().item(), rel=1e-7)
    # the gradient in theta is that direction, averaged over all elements, through dG / dtheta
    parameters = list(case.nets.generator.parameters())
    same(gradients, list(torch.autograd.grad(x, parameters, grad_outputs=direction / x.numel())))


def test_adm_generator_loss_adds_the_gan(case: Case) -> None:
    objective = ADM(NOISE, generator_weight=0.7)
    loss, gradients = generator_gradient(case, objective)
    source, x = rng(), made(case)
    direction = expected_direction(case, x.detach(), source)
    gan = sum(torch.log1p(torch.exp(-logit)) for logit in logits(case.nets, x, case.batch.condition, source)) / B
    assert isinstance(gan, Tensor)
    assert loss.item() == pytest.approx(0.5 * (direction**2).mean().item() + 0.7 * gan.item(), rel=1e-7)
    parameters = list(case.nets.generator.parameters())
    dm = torch.autograd.grad(x, parameters, grad_outputs=direction / x.numel(), retain_graph=True)
    adversarial = torch.autograd.grad(gan, parameters)
    same(gradients, [a + 0.7 * b for a, b in zip(dm, adversarial, strict=True)])


def expected_score_loss(case: Case, x: Tensor, source: torch.Generator) -> Tensor:
    x_t, sigmas = noised(x, 0, 999, source)
    error = denoised(case.nets.fake, x_t, sigmas, case.batch.condition) - x
    weighted = [(s**-2 + 1 / 0.25) * (error[i] ** 2).mean() for i, s in enumerate(sigmas)]
    return torch.stack(weighted).mean()


def test_dm_fake_loss_is_the_weighted_denoising_error(case: Case) -> None:
    loss = DM(NOISE).fake_loss(case.nets, case.batch, rng()).total
    expected = expected_score_loss(case, made(case).detach(), rng())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
    parameters = list(case.nets.fake.parameters())
    same(list(torch.autograd.grad(loss, parameters)), list(torch.autograd.grad(expected, parameters)))


def test_adm_fake_loss_adds_the_classifier(case: Case) -> None:
    loss = ADM(NOISE, head_weight=0.3).fake_loss(case.nets, case.batch, rng()).total
    source, x, batch = rng(), made(case).detach(), case.batch
    expected = expected_score_loss(case, x, source)
    on_fake = [torch.log1p(torch.exp(logit)) for logit in logits(case.nets, x, batch.condition, source)]
    assert batch.real is not None
    assert batch.real_condition is not None
    on_real = [torch.log1p(torch.exp(-logit)) for logit in logits(case.nets, batch.real, batch.real_condition, source)]
    expected = expected + 0.3 * torch.stack([*on_fake, *on_real]).sum() / B
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)
    assert case.nets.head is not None
    parameters = [*case.nets.fake.parameters(), *case.nets.head.parameters()]
    same(list(torch.autograd.grad(loss, parameters)), list(torch.autograd.grad(expected, parameters)))


def test_adm_without_its_gan_is_dm(case: Case) -> None:
    dm, adm = DM(NOISE), ADM(NOISE, generator_weight=0.0, head_weight=0.0)
    (loss, gradients), (other, others) = generator_gradient(case, dm), generator_gradient(case, adm)
    assert loss.item() == other.item()
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    assert (
        dm.fake_loss(case.nets, case.batch, rng()).total.item()
        == adm.fake_loss(case.nets, case.batch, rng()).total.item()
    )


def test_parts_are_the_named_terms_detached(case: Case) -> None:
    source, adm = rng(), ADM(NOISE)
    draft = adm.draft(case.nets, case.batch, source)
    teacher_x0 = case.teacher(draft.x_t, draft.sigma, draft.condition)
    generator = adm.generator_loss(case.nets, draft, case.batch, teacher_x0, source)
    fake = adm.fake_loss(case.nets, case.batch, source)
    assert generator.total.item() == pytest.approx((generator.parts["dm"] + 3e-3 * generator.parts["gan"]).item())
    assert fake.total.item() == pytest.approx((fake.parts["fake_score"] + 1e-2 * fake.parts["head"]).item())
    assert not any(part.requires_grad for part in {**generator.parts, **fake.parts}.values())


def test_gradients_stay_in_their_networks(case: Case) -> None:
    """DM trains only the generator, although teacher and fake score have weights that would take a gradient."""
    source, dm = rng(), DM(NOISE)
    draft = dm.draft(case.nets, case.batch, source)
    teacher_x0 = case.teacher(draft.x_t, draft.sigma, draft.condition)
    dm.generator_loss(case.nets, draft, case.batch, teacher_x0, source).total.backward()
    for module in (case.teacher, case.nets.fake):
        assert all(p.grad is None for p in module.parameters())
    assert all(p.grad is not None for p in case.nets.generator.parameters())
    case.nets.generator.zero_grad(set_to_none=True)
    ADM(NOISE).fake_loss(case.nets, case.batch, source).total.backward()
    for module in (case.teacher, case.nets.generator):
        assert all(p.grad is None for p in module.parameters())
    assert case.nets.head is not None
    assert all(p.grad is not None for p in [*case.nets.fake.parameters(), *case.nets.head.parameters()])


def test_the_question_to_the_teacher_has_no_graph(case: Case) -> None:
    draft = DM(NOISE).draft(case.nets, case.batch, rng())
    assert draft.x.requires_grad
    assert not draft.x_t.requires_grad
    assert torch.equal(draft.condition, case.batch.condition)
    assert draft.sigma.dtype == draft.x.dtype


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
        objective.fake_loss(nets, batch, source)
    drawn += [(sigma, 0, 999) for sigma in fake.sigmas]
    assert len(drawn) == (2 if isinstance(objective, DM) else 5)
    for sigma, first, last in drawn:
        index = indices(sigma, noise)
        assert (int(index.min()), int(index.max())) == (first, last)
        assert index.float().mean().item() == pytest.approx((first + last) / 2, abs=5 * 289 / n**0.5)


@pytest.mark.parametrize("method", OBJECTIVES.values())
def test_a_range_up_to_the_whole_grid_is_allowed(method: type[DM] | type[ADM]) -> None:
    noise = Noise(levels=3)
    objective = replace(method(noise), first=0.0, last=1.0)
    nets = Nets(SPECS["mlp"].build(), SPECS["mlp"].build())
    draft = objective.draft(nets, Batch(torch.randn(100, 2), torch.zeros(100).long()), rng())
    assert torch.equal(draft.sigma.unique(), noise.grid())


def test_needs() -> None:
    assert DM().needs.teacher == ADM().needs.teacher == "output"  # so a remote teacher does, without gradients
    assert not DM().needs.real_data
    assert not DM().needs.head
    assert ADM().needs.real_data
    assert ADM().needs.head
