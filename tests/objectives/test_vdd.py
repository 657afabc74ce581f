"""VDD's loss against the divergence that it bounds, computed on a grid, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Noise
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, GaussianMixtureConfig, MLPConfig
from msd_ray.objectives import Batch, Nets
from msd_ray.objectives.vdd import VDD
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext

K, LEVEL = 3, 0.3
NOISE = Noise(sigma_init=1e6)
HIGH = VDD(NOISE, highest=LEVEL, lowest=LEVEL)
MODES = torch.distributions.Normal(torch.tensor([-0.5, 0.4]).double(), torch.tensor([0.3, 0.2]).double())


def nets() -> Nets:
    torch.manual_seed(3)
    spec = DenoiserSpec(GaussianMixtureConfig(experts=K, width=8), (1,), 0)
    return Nets(spec.build().double(), spec.build().double())


def log_teacher(x: Tensor) -> Tensor:
    """The logarithm of the teacher's density at the level, of samples noised by it."""
    noised = torch.distributions.Normal(MODES.mean, (MODES.variance + LEVEL**2).sqrt())
    return noised.log_prob(x[..., None]).logsumexp(-1) - torch.tensor(2.0).log()


def teacher(x_t: Tensor) -> Tensor:
    """D(x_t) = x_t + sigma^2 times the score."""
    x = x_t.detach().requires_grad_()
    (score,) = torch.autograd.grad(log_teacher(x[:, 0]).sum(), x)
    return x_t + LEVEL**2 * score


def even_batch(n: int, real: Tensor) -> Batch:
    """Each expert sees the same n quantiles."""
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None].repeat(K, 1)
    return Batch(z, torch.zeros(len(z), dtype=torch.long), real, torch.zeros(len(real), dtype=torch.long))


def gradients(loss: Tensor, modules: Any) -> Tensor:
    found = torch.autograd.grad(loss, list(modules.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def losses(monkeypatch: pytest.MonkeyPatch, made: Nets, batch: Batch, vdd: VDD) -> Any:
    expert = torch.arange(K).repeat_interleave(len(batch.z) // K)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: expert)
    rng = torch.Generator()
    draft = vdd.draft(made, batch, rng)
    assert draft.sigma.unique().item() == LEVEL
    return vdd.generator_loss(made, draft, batch, teacher(draft.x_t), rng).total


def mixture_of(made: Nets) -> Any:
    """c_out is sigma_data at so high a level."""
    network: Any = made.generator.network
    mixture = network.mixture(torch.zeros(1, dtype=torch.long))
    return mixture._replace(mean=0.5 * mixture.mean, scale=0.5 * mixture.scale)


def test_the_experts_gradient_is_that_of_the_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound touches the divergence where the responsibilities are those of the mixture, so there their gradients
    agree. KL(q || p) is computed on a grid, with autograd through q."""
    made = nets()
    batch = even_batch(20_000, torch.zeros(1, 1, dtype=torch.float64))
    found = gradients(losses(monkeypatch, made, batch, replace(HIGH, gate=0.0)), made.generator.network.experts)
    x = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    log_q = mixture_of(made).log_joint(x[:, None]).logsumexp(1)
    divergence = torch.trapezoid(log_q.exp() * (log_q - log_teacher(x)), x)
    expected = gradients(divergence, made.generator.network.experts)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4 * float(expected.norm()))


def test_the_gate_learns_who_is_responsible_for_real_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its logits the gradient is what it says, less the mean responsibility."""
    made, real = nets(), torch.tensor([[-0.5], [0.1], [0.4]], dtype=torch.float64)
    loss = losses(monkeypatch, made, even_batch(4, real), HIGH)
    (found,) = torch.autograd.grad(loss, made.generator.network.gate[-1].bias)
    mixture = mixture_of(made)
    responsible = mixture.log_joint(real).softmax(1).mean(0)
    torch.testing.assert_close(found, mixture.log_gate[0].exp() - responsible, rtol=0, atol=1e-9)


def test_one_expert_comes_to_rest_at_a_gaussian_teacher() -> None:
    """Its mean is the teacher's, its variance that of the teacher's samples with the noise of the level."""
    torch.manual_seed(0)
    spec = DenoiserSpec(GaussianMixtureConfig(experts=1, width=8), (1,), 0)
    made = Nets(spec.build().double(), spec.build().double())
    optimizer = torch.optim.Adam(made.generator.parameters(), 1e-2)
    batch, rng = even_batch(200, torch.zeros(1, 1, dtype=torch.float64)), torch.Generator()
    batch = replace(batch, z=batch.z[:200], condition=batch.condition[:200])
    for _ in range(1500):
        draft = HIGH.draft(made, batch, rng)
        x0 = (draft.x_t * 0.2**2 + 0.7 * LEVEL**2) / (0.2**2 + LEVEL**2)  # of samples N(0.7, 0.2^2)
        optimizer.zero_grad()
        HIGH.generator_loss(made, draft, batch, x0, rng).total.backward()
        optimizer.step()
    mixture = mixture_of(made).detached()
    assert float(mixture.mean) == pytest.approx(0.7, abs=2e-3)
    assert float(mixture.scale) ** 2 == pytest.approx(0.2**2 + LEVEL**2, rel=0.03)


def test_the_level_falls_geometrically_and_stays() -> None:
    vdd = VDD(NOISE, highest=0.2, lowest=0.002, falling=1000)
    levels = [float(vdd.draft(nets(), replace(even_batch(2, torch.zeros(1, 1)), seen=n), torch.Generator()).sigma[0])
              for n in (0, 500, 1000, 5000)]  # fmt: skip
    assert levels == pytest.approx([0.2, 0.02, 0.002, 0.002])
    with pytest.raises(ValueError, match="lowest must be at most highest"):
        VDD(highest=0.1, lowest=0.2)


def planned(recipe: str, *overrides: str) -> Plan:
    return RunContext.of(recipe, list(overrides), None).plan


def test_experts_and_their_method_belong_together() -> None:
    plan = planned("toy2d-vdd")
    assert plan.student.network == GaussianMixtureConfig(experts=8, width=64)
    for override, message in [
        ("student.experts=null", r"stages\.vdd: vdd trains students of Gaussian experts; write student\.experts=8"),
        ("stages={dm: {objective: dm, images: 512, batch: 256}}", r"student\.experts: dm trains no mixture of experts"),
        ("training.sharding=full", r"training\.sharding: full does not divide mixtures of experts"),
        ("students={1: {channel_factor: 0.5}}", r"of Gaussian experts; write students\.1\.experts=8"),
    ]:
        with pytest.raises(UserError, match=message):
            planned("toy2d-vdd", override)
    with pytest.raises(UserError, match=r"student\.experts: a teacher of kind unet cannot be cut into experts"):
        planned("digits", "student.experts=4", "stages={vdd: {objective: vdd, images: 512, batch: 64}}")
    assert isinstance(plan.teacher.network, MLPConfig)
