"""Small float64 networks with a batch, and the elements of the re-derivations that the objectives are held against.

The re-derivations share the raw networks and the order of the random draws with the code, and nothing else.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, Noise, one_step
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.objectives import Batch, Loss, Nets, Objective, Pairs, TrainsFake

NOISE = Noise(sigma_init=2.5)
SPECS = {
    "mlp": DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 3),
    "unet": DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=()), (1, 4, 4), 3),
}
B = 4


def randomised(module: Any) -> Any:
    """In float64, and no weight zero."""
    for parameter in module.double().eval().parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


class Case:
    """Generator, its target, fake score, teacher and encoder of random float64 weights, and a batch."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.shape = SPECS[name].sample_shape
        generator, fake, self.teacher, target, encoder = (randomised(SPECS[name].build()) for _ in range(5))
        self.nets = Nets(generator, fake, target=target, encoder=encoder.requires_grad_(False))
        z, real, pair_z, pair_x = torch.randn(4, B, *self.shape, dtype=torch.float64)
        pairs = Pairs(pair_z, pair_x, torch.tensor([2, 0, 0, 1]))
        self.batch = Batch(z, torch.tensor([0, 2, 1, 2]), real, torch.tensor([1, 1, 0, 2]), pairs)

    def equip(self, objective: Objective) -> Nets:
        """The networks with what the objective needs beside them."""
        needs = objective.needs
        torch.manual_seed(1)
        head = needs.head and randomised(needs.head(self.nets))
        kept = needs.memory(self.nets, self.shape) if needs.memory else {}
        memory = {name: torch.ones(shape) for name, shape in kept.items()}
        self.nets = replace(self.nets, head=head, memory=memory)
        for network in (self.nets.generator, self.nets.target):
            assert network is not None
            network.sigma_min = objective.noise.sigma_min if needs.boundary else 0.0
        return self.nets

    @property
    def real(self) -> Tensor:
        assert self.batch.real is not None
        return self.batch.real

    @property
    def real_condition(self) -> Tensor:
        assert self.batch.real_condition is not None
        return self.batch.real_condition


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


# What the code says.


def generator_loss(case: Case, objective: Objective) -> Loss:
    source, nets = rng(), case.equip(objective)
    draft, needs = objective.draft(nets, case.batch, source), objective.needs
    teacher_x0 = case.teacher(draft.x_t, draft.sigma, draft.condition) if needs.teacher != "none" else None
    if needs.follow_up:
        assert teacher_x0 is not None
        draft = needs.follow_up(draft, teacher_x0 if needs.teacher == "gradient" else teacher_x0.detach())
        teacher_x0 = case.teacher(draft.x_t, draft.sigma, draft.condition)
    return objective.generator_loss(nets, draft, case.batch, teacher_x0, source)


def fake_loss(case: Case, objective: TrainsFake, nets: Nets | None = None, **other: Any) -> Loss:
    """other: than the case's, of the batch's fields. The generator's samples have no graph."""
    nets, batch = nets or case.equip(objective), replace(case.batch, **other)
    with torch.no_grad():
        x = one_step(nets.generator, batch.z, batch.condition, objective.noise.sigma_init)
    return objective.fake_loss(nets, x, batch, rng())


def generator_gradient(case: Case, objective: Objective) -> tuple[Tensor, list[Tensor]]:
    loss = generator_loss(case, objective).total
    return loss, gradients(loss, generator_parameters(case))


def generator_parameters(case: Case) -> list[nn.Parameter]:
    return list(case.nets.generator.parameters())


def fake_parameters(case: Case) -> list[nn.Parameter]:
    """Those that `fake_loss` trains."""
    head = case.nets.head
    return [*case.nets.fake.parameters(), *(head.parameters() if head is not None else [])]


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Zeros where the loss does not depend on a parameter."""
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True))


def same(ours: list[Tensor], expected: list[Tensor]) -> None:
    assert any((b != 0).any() for b in expected)
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def same_loss(loss: Tensor, expected: Tensor, parameters: list[nn.Parameter]) -> None:
    """In value and in gradient."""
    assert loss.dtype == torch.float64
    assert abs(loss.item() - expected.item()) <= 1e-7 * abs(expected.item())
    same(gradients(loss, parameters), gradients(expected, parameters))


# The re-derivation's elements, sample by sample.


def karras(index: int, levels: int = 1000) -> float:
    """methods.md: sigma(t) with t = 0 at sigma_max; index 0 is the smallest sigma."""
    t = 1 - index / (levels - 1)
    sigma = (80 ** (1 / 7) + t * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return torch.tensor(sigma).float().item()  # grids are kept in float32


def indices(first: int, last: int, source: torch.Generator) -> list[int]:
    return [int(i) for i in torch.randint(first, last + 1, (B,), generator=source)]


def lognormal(source: torch.Generator, mean: float = -1.2, std: float = 1.2) -> list[float]:
    return [math.exp(mean + std * float(g)) for g in torch.randn(B, generator=source, dtype=torch.float64)]


def at_levels(x: Tensor, sigmas: list[float], source: torch.Generator) -> Tensor:
    n = torch.randn(x.shape, generator=source, dtype=torch.float64)
    return torch.stack([x[i] + sigmas[i] * n[i] for i in range(B)])


def noised(x: Tensor, first: int, last: int, source: torch.Generator) -> tuple[Tensor, list[float]]:
    sigmas = [karras(i) for i in indices(first, last, source)]
    return at_levels(x, sigmas, source), sigmas


def denoised(denoiser: EDMDenoiser, x_t: Tensor, sigmas: list[float], condition: Tensor) -> Tensor:
    out, low = [], denoiser.sigma_min
    for i, s in enumerate(sigmas):
        c_noise = torch.tensor([math.log(s) / 4], dtype=torch.float64)
        f = denoiser.network(x_t[i : i + 1] / math.sqrt(s**2 + 0.25), c_noise, condition[i : i + 1])[0]
        out.append(0.25 / ((s - low) ** 2 + 0.25) * x_t[i] + (s - low) * 0.5 / math.sqrt(s**2 + 0.25) * f)
    return torch.stack(out)


def features(denoiser: EDMDenoiser, x_t: Tensor, sigmas: list[float], condition: Tensor) -> list[list[Tensor]]:
    """Each sample's features [1, ...] of all resolutions."""
    out = []
    for i, s in enumerate(sigmas):
        c_noise = torch.tensor([math.log(s) / 4], dtype=torch.float64)
        out.append(denoiser.network.encode(x_t[i : i + 1] / math.sqrt(s**2 + 0.25), c_noise, condition[i : i + 1]))
    return out


def logits_at(nets: Nets, x_t: Tensor, sigmas: list[float], condition: Tensor) -> list[Tensor]:
    """Those of the head on the fake score's bottleneck."""
    assert nets.head is not None
    return [nets.head(maps[-1]).squeeze() for maps in features(nets.fake, x_t, sigmas, condition)]


def logits(nets: Nets, x: Tensor, condition: Tensor, source: torch.Generator) -> list[Tensor]:
    x_t, sigmas = noised(x, 0, 999, source)
    return logits_at(nets, x_t, sigmas, condition)


def made(case: Case) -> Tensor:
    batch = case.batch
    return denoised(case.nets.generator, NOISE.sigma_init * batch.z, [NOISE.sigma_init] * B, batch.condition)


def softplus(values: list[Tensor], sign: int = 1) -> Tensor:
    """The mean of log(1 + exp(sign * value))."""
    return torch.stack([torch.log1p(torch.exp(sign * v)) for v in values]).mean()


def weighted_by_edm(error: Tensor, sigmas: list[float]) -> Tensor:
    """The mean of EDM's weight times the squared error [B, ...]."""
    return torch.stack([(s**2 + 0.25) / (0.5 * s) ** 2 * (error[i] ** 2).mean() for i, s in enumerate(sigmas)]).mean()


def expected_score_loss(case: Case, x: Tensor, source: torch.Generator) -> Tensor:
    """DMD2's, weighted 1 / sigma^2 + 1 / sigma_data^2."""
    x_t, sigmas = noised(x, 0, 999, source)
    error = denoised(case.nets.fake, x_t, sigmas, case.batch.condition) - x
    return torch.stack([(s**-2 + 1 / 0.25) * (error[i] ** 2).mean() for i, s in enumerate(sigmas)]).mean()


def expected_edm_loss(case: Case, x: Tensor, source: torch.Generator) -> Tensor:
    """EDM's, of the fake score on x, but a sum over a sample's elements."""
    sigmas = lognormal(source)
    x_t = at_levels(x, sigmas, source)
    error = denoised(case.nets.fake, x_t, sigmas, case.batch.condition) - x
    return x[0].numel() * weighted_by_edm(error, sigmas)


def expected_directions(case: Case, x: Tensor, x_t: Tensor, sigmas: list[float]) -> list[Tensor]:
    """(p_real - p_fake) / mean_pixels|p_real| of DMD2, for each sample."""
    with torch.no_grad():
        p_real = x - denoised(case.teacher, x_t, sigmas, case.batch.condition)
        p_fake = x - denoised(case.nets.fake, x_t, sigmas, case.batch.condition)
        return [(p_real[i] - p_fake[i]) / p_real[i].abs().mean() for i in range(B)]


def pulled(x: Tensor, directions: list[Tensor]) -> tuple[float, Tensor]:
    """DMD2's 0.5 * MSE(x, stopgrad(x - direction)): its value, and a scalar with its gradient."""
    direction = torch.stack(directions)
    return 0.5 * (direction**2).mean().item(), (direction * x).sum() / x.numel()


def huber(a: Tensor, b: Tensor) -> Tensor:
    """The pseudo-Huber distance of two samples."""
    c = 0.00054 * math.sqrt(a.numel())
    return torch.sqrt(torch.sum((a - b) ** 2) + c**2) - c
