"""Di[M]O against a re-derivation with explicit loops, where its gradient rests, and what of it is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Masked, Noise, drawn_tokens
from msd_ray.diffusion.tokens import first_tokens, one_hot
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.objectives import Batch, DiMO, Nets
from msd_ray.objectives.dimo import jeffreys
from msd_ray.runs.run_context import RunContext

from .cases import gradients, randomised, rng, same

B, N, SIDE = 3, 4, 4
NOISE = Noise(sigma_max=1.0, sigma_init=0.6)
BETAS = [0.0, -0.2, 0.5, 1.0]
NETWORK = UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=())
SPEC = DenoiserSpec(NETWORK, (N, SIDE, SIDE), 3, preconditioning=Masked())


class Case:
    """Generator, fake score and teacher of random float64 weights, and a batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        generator, fake, self.teacher = (randomised(SPEC.build()) for _ in range(3))
        self.nets = Nets(generator, fake)
        z = torch.randn(B, N, SIDE, SIDE, dtype=torch.float64)
        self.batch = Batch(z, torch.tensor([0, 2, 1]))

    def logits(self) -> Tensor:
        """The generator's, from its raw network."""
        share = torch.full((B,), 0.6, dtype=torch.float64)
        made: Tensor = self.nets.generator.network(first_tokens(self.batch.z, 0.6), share, self.batch.condition)
        return made


def hidden(tokens: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
    """Tokens with masks, the share of them of each sample, and where they are."""
    shares = [2 / math.pi * math.acos(u) for u in torch.rand(B, generator=source, dtype=torch.float64).tolist()]
    drawn = torch.rand(B, 1, SIDE, SIDE, generator=source, dtype=torch.float64)
    places = [(b, i, j) for b in range(B) for i in range(SIDE) for j in range(SIDE) if drawn[b, 0, i, j] < shares[b]]
    x_t = tokens.clone()
    for b, i, j in places:
        x_t[b, :, i, j] = 0
    return x_t, torch.tensor(shares, dtype=torch.float64), places


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Of two distributions given as logits [n]."""
    p, q = p.log_softmax(0), q.log_softmax(0)
    return torch.stack([p[k].exp() * (p[k] - q[k]) for k in range(len(p))]).sum()


@pytest.mark.parametrize("beta", BETAS)
def test_the_generators_gradient_is_that_of_the_divergence_in_the_fake_scores_logits(beta: float) -> None:
    case, objective, source = Case(), DiMO(NOISE, beta), rng()
    draft = objective.draft(case.nets, case.batch, source)
    answer = case.teacher(draft.x_t, draft.sigma, draft.condition)
    loss = objective.generator_loss(case.nets, draft, case.batch, answer, source)

    made = case.logits()
    x_t, shares, places = hidden(drawn_tokens(made, case.batch.z), rng())
    torch.testing.assert_close(draft.x_t, x_t)
    real, fake = (net.network(x_t, shares, case.batch.condition).detach() for net in (case.teacher, case.nets.fake))
    surrogate, value = torch.zeros((), dtype=torch.float64), 0.0
    for b, i, j in places:
        ours = fake[b, :, i, j].clone().requires_grad_()
        divergence = (1 - beta) * kl(real[b, :, i, j], ours) + beta * kl(ours, real[b, :, i, j])
        (towards,) = torch.autograd.grad(divergence, ours)
        surrogate, value = surrogate + towards @ made[b, :, i, j], value + divergence.item()
    parameters = list(case.nets.generator.parameters())
    same(gradients(loss.total, parameters), gradients(surrogate / len(places), parameters))
    assert loss.parts["dimo"].item() == pytest.approx(value / len(places), rel=1e-9)


def test_the_fake_score_learns_the_generators_tokens_under_masks() -> None:
    case, objective = Case(), DiMO(NOISE)
    made = case.logits().detach()
    loss = objective.fake_loss(case.nets, made, case.batch, rng())
    tokens = drawn_tokens(made, case.batch.z)
    x_t, shares, places = hidden(tokens, rng())
    said = case.nets.fake.network(x_t, shares, case.batch.condition)
    expected = sum((kl(1e3 * tokens[b, :, i, j], said[b, :, i, j]) for b, i, j in places), torch.zeros(())) / len(
        places
    )
    parameters = list(case.nets.fake.parameters())
    same(gradients(loss.total, parameters), gradients(expected, parameters))
    assert loss.parts["fake_score"].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_the_gradient_rests_where_the_fake_score_says_what_the_teacher_says(beta: float) -> None:
    case, objective, source = Case(), DiMO(NOISE, beta), rng()
    nets = replace(case.nets, fake=case.teacher)
    draft = objective.draft(nets, case.batch, source)
    loss = objective.generator_loss(
        nets, draft, case.batch, case.teacher(draft.x_t, draft.sigma, draft.condition), source
    )
    found = gradients(loss.total, list(nets.generator.parameters()))
    assert all(gradient.abs().max() < 1e-12 for gradient in found) and loss.parts["dimo"].abs() < 1e-12


@pytest.mark.parametrize("beta", BETAS)
def test_the_divergence_and_its_gradient_do_not_depend_on_a_constant_in_the_logits(beta: float) -> None:
    real, fake = torch.randn(2, 5, N, 7, dtype=torch.float64, generator=rng())
    for ours, shifted in zip(jeffreys(real, fake, beta), jeffreys(real + 3, fake - 2, beta), strict=True):
        torch.testing.assert_close(ours, shifted)
    value, gradient = jeffreys(real, fake, beta)
    assert gradient.sum(1).abs().max() < 1e-12 and (beta < 0 or (value > 0).all())


@pytest.mark.parametrize("beta", BETAS)
def test_a_generator_of_one_token_comes_to_rest_at_the_teachers_distribution(beta: float) -> None:
    """Its fake score is exact: of a masked token alone it says the generator's own logits."""
    goal = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    weights = torch.zeros(N, dtype=torch.float64, requires_grad=True)

    class Told:
        preconditioning = Masked()

        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

        def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
            return self.logits[None, :, None].expand(len(x_t), N, 1)

    told: list[EDMDenoiser] = [Told(weights), Told(weights.detach())]  # type: ignore[list-item]
    objective, nets, source = DiMO(NOISE, beta), Nets(*told), rng()
    optimizer = torch.optim.Adam([weights], 0.05)
    for _ in range(400):
        batch = Batch(torch.randn(16, N, 1, generator=source, dtype=torch.float64), torch.zeros(16).long())
        draft = objective.draft(nets, batch, source)
        optimizer.zero_grad()
        teacher = goal.log()[None, :, None].expand(16, N, 1)
        objective.generator_loss(nets, draft, batch, teacher, source).total.backward()
        optimizer.step()
    torch.testing.assert_close(weights.detach().softmax(0), goal, atol=2e-3, rtol=0)


def test_a_batch_without_a_mask_moves_nothing() -> None:
    case, objective = Case(), DiMO(NOISE)
    draft = replace(
        objective.draft(case.nets, case.batch, rng()), x_t=one_hot(torch.zeros(B, SIDE, SIDE).long(), N).double()
    )
    loss = objective.generator_loss(case.nets, draft, case.batch, torch.zeros_like(draft.x), rng())
    assert loss.total.item() == loss.parts["dimo"].item() == 0


GAUSSIAN = ["codec={kind: identity}", "data={name: digits}"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("digits-tokens", GAUSSIAN, "stages.dimo: dimo has a teacher of tokens; write codec.kind=levels data.name="),
        ("digits", ["stages={x: {objective: dimo}}"], "stages.x: dimo has a teacher of tokens"),
        ("digits-tokens", ["stages={x: {objective: sid}}"], "stages.x: sid has no teacher of tokens; take dimo"),
        ("digits-tokens", ["data={name: digits}"], "codec.kind: digits has no tokens for levels; write data.name="),
        ("digits-tokens", ["noise.sigma_init=80"], "noise: the level of tokens is the share of masks"),
        ("digits-tokens", ["noise.sigma_max=80"], "noise: the level of tokens is the share of masks"),
        ("digits-tokens", ["noise.steps=2"], "noise.steps: dimo .* trains generators of a single step only"),
        ("digits-tokens", ["partition.timesteps=2"], "partition.timesteps: dimo makes one-step students"),
        ("digits-tokens", ["teacher.churn.amount=1"], "teacher.churn: a teacher of tokens draws anew"),
        ("digits-tokens", ["data.options.of.name=toy2d"], "data.options.of: levels are those of grey images"),
        ("digits-tokens", ["data.options.levels=2"], "data.options.levels"),
        ("digits-tokens", ["stages.dimo.options={beta: 3}"], "beta"),
    ],
)  # fmt: skip
def test_what_does_not_fit_tokens_is_refused_in_one_line(recipe: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        _ = RunContext.of(recipe, overrides, None).plan
    assert "\n" not in str(refused.value)
