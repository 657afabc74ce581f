"""A mixture of Gaussian experts with a learned gate, as a generator of points in one step: the student of VDD (arXiv
2406.12538)."""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from msd_ray.diffusion import Network
from msd_ray.networks.embedding import as_vectors
from msd_ray.networks.sizes import Experts, StudentSize
from msd_ray.ranges import Width

LEAST = 1e-4
"""Of an expert's standard deviations, in the units of the network's output."""


@dataclass(frozen=True)
class GaussianMixtureConfig:
    """experts: Gaussians. width: hidden units of each expert's perceptron and of the gate's, of two layers."""

    kind: Literal["gaussian-mixture"] = "gaussian-mixture"
    experts: Experts = 8
    width: Width = 64

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "GaussianMixture":
        return GaussianMixture(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "GaussianMixtureConfig":
        return replace(self, width=size.width_of(self.width), experts=size.experts or self.experts)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return ""


class Mixture(NamedTuple):
    """log_gate: [B, K]. mean: [B, K, D]. scale: lower triangles L [B, K, D, D], the covariances are L L^T."""

    log_gate: Tensor
    mean: Tensor
    scale: Tensor

    def log_joint(self, x: Tensor) -> Tensor:
        """log q(x, k) of the points [B, D] for each expert k: [B, K]."""
        away = (x[:, None] - self.mean)[..., None]
        white = torch.linalg.solve_triangular(self.scale, away, upper=False)[..., 0]
        log_joint: Tensor = self.log_gate - self.log_determinant - (white**2 + math.log(2 * math.pi)).sum(-1) / 2
        return log_joint

    @property
    def log_determinant(self) -> Tensor:
        """Of L: [B, K]."""
        return self.scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def detached(self) -> "Mixture":
        return Mixture(*(each.detach() for each in self))


class GaussianMixture(Network):
    """F(z [B, D], c_noise, condition) -> a point of the mixture [B, D], which follows from z ~ N(0, I): its first entry
    says which expert, and is a normal number again within its interval. The noise level plays no part."""

    def __init__(self, config: GaussianMixtureConfig, sample_shape: tuple[int, ...], classes: int) -> None:
        """Raises ValueError where samples are no points."""
        super().__init__()
        if len(sample_shape) != 1:
            raise ValueError(f"a network of kind {config.kind} makes points, not samples of {list(sample_shape)}")
        self.dim, self.classes, self.feature_shapes = sample_shape[0], classes, [(config.experts,)]
        numbers = self.dim * (self.dim + 3) // 2
        self.experts = nn.ModuleList(_perceptron(classes, config.width, numbers) for _ in range(config.experts))
        self.gate = _perceptron(classes, config.width, config.experts)

    def mixture(self, condition: Tensor) -> Mixture:
        """Of the points that F gives for these conditions [B]."""
        given = as_vectors(condition, self.classes) if self.classes else torch.ones(len(condition), 1)
        given = given.to(next(self.gate.parameters()))
        log_gate = self.gate(given).log_softmax(1)
        made = torch.stack([expert(given) for expert in self.experts], dim=1)
        row, column = torch.tril_indices(self.dim, self.dim)
        scale = made.new_zeros(*made.shape[:2], self.dim, self.dim)
        scale[..., row, column] = made[..., self.dim :]
        positive = nn.functional.softplus(scale.diagonal(dim1=-2, dim2=-1)) + LEAST
        return Mixture(log_gate, made[..., : self.dim], scale.tril(-1) + torch.diag_embed(positive))

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        mixture = self.mixture(condition)
        expert, z = chosen(mixture.log_gate, x)
        rows = torch.arange(len(x), device=x.device)
        return mixture.mean[rows, expert] + (mixture.scale[rows, expert] @ z[..., None])[..., 0]

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        return [self.mixture(condition).log_gate]


def chosen(log_gate: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The expert [B] that each z ~ N(0, I) [B, D] stands for, as often as the gate [B, K] says, and a z that is N(0, I)
    whichever expert it is: the uniform number of z's first entry falls into an expert's interval, and where in it is
    uniform again."""
    u = torch.special.ndtr(z[:, :1].double())
    ends = log_gate.double().exp().cumsum(1)
    ends = ends / ends[:, -1:]
    expert = (u >= ends[:, :-1]).sum(1, keepdim=True)
    begins = torch.cat([torch.zeros_like(u), ends], 1).gather(1, expert)
    within = (u - begins) / (ends.gather(1, expert) - begins).clamp_min(1e-300)
    again = torch.special.ndtri(within.clamp(1e-12, 1 - 1e-12)).to(z.dtype)
    return expert[:, 0], torch.cat([again, z[:, 1:]], dim=1)


def _perceptron(classes: int, width: int, out: int) -> nn.Sequential:
    first, hidden, last = nn.Linear(max(classes, 1), width), nn.Linear(width, width), nn.Linear(width, out)
    nn.init.normal_(first.weight)
    return nn.Sequential(first, nn.SiLU(), hidden, nn.SiLU(), last)
