"""A small multilayer perceptron for low-dimensional data such as the 2-D toy mixture."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.diffusion import Network
from msd_ray.networks.embedding import ConditionEmbedding
from msd_ray.networks.gaussian_mixture import GaussianMixtureConfig
from msd_ray.networks.sizes import StudentSize
from msd_ray.ranges import Blocks, Width


@dataclass(frozen=True)
class MLPConfig:
    """width: hidden units. blocks: residual blocks, half of them before the bottleneck."""

    kind: Literal["mlp"] = "mlp"
    width: Width = 128
    blocks: Blocks = 4

    def __post_init__(self) -> None:
        if self.width < 4 or self.width % 2 or self.blocks < 2:
            raise ValueError("width must be an even number of at least 4, and blocks at least 2")

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "MLP":
        return MLP(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "MLPConfig | GaussianMixtureConfig":
        if size.multipliers is not None:
            raise ValueError("multipliers apply to UNets; this teacher is an MLP")
        if size.experts:
            return GaussianMixtureConfig(experts=size.experts, width=size.width_of(self.width))
        return replace(self, width=size.width_of(self.width), blocks=size.blocks or self.blocks)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return ""


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.affine = nn.Linear(width, 2 * width)
        self.hidden = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.affine(emb).chunk(2, dim=1)
        out: Tensor = h + self.out(F.silu(self.hidden(self.norm(h) * (scale + 1) + shift)))
        return out


class MLP(Network):
    """F(x [B, D], c_noise [B], condition) -> [B, D]."""

    def __init__(self, config: MLPConfig, sample_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        (dim,) = sample_shape
        self.feature_shapes = [(config.width,)]
        self.embedding = ConditionEmbedding(config.width, config.width, classes)
        self.first = nn.Linear(dim, config.width)
        half = config.blocks // 2
        self.encoder = nn.ModuleList(_Block(config.width) for _ in range(half))
        self.decoder = nn.ModuleList(_Block(config.width) for _ in range(config.blocks - half))
        self.last = nn.Linear(config.width, dim)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        emb = self.embedding(c_noise, condition)
        h = self._encode(x, emb)
        for block in self.decoder:
            h = block(h, emb)
        out: Tensor = self.last(h)
        return out

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """The hidden features halfway, [B, width]."""
        return [self._encode(x, self.embedding(c_noise, condition))]

    def _encode(self, x: Tensor, emb: Tensor) -> Tensor:
        h: Tensor = self.first(x)
        for block in self.encoder:
            h = block(h, emb)
        return h
