"""How noise level and condition enter a network."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fourier(c_noise: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal features of c_noise [B] at `width` / 2 frequencies from 1 to 1 / max_period: [B, width], in float64
    where c_noise is, in float32 otherwise."""
    half, dtype = width // 2, torch.promote_types(c_noise.dtype, torch.float32)
    rates = torch.exp(-math.log(max_period) * torch.arange(half, device=c_noise.device, dtype=dtype) / half)
    angles = c_noise.to(dtype)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def as_vectors(condition: Tensor, classes: int) -> Tensor:
    """Conditions as networks are given them, ids [B] below `classes` or vectors [B, classes], as vectors."""
    return condition if condition.ndim > 1 else F.one_hot(condition, classes)


def told(condition: Tensor, weight: Tensor, classes: int) -> Tensor:
    """The vectors of classes [B], each times its weight [B]: [B, classes]. 0 stands for no class, 1 for the class
    alone, and any other weight for the class with a guidance."""
    return weight[:, None] * as_vectors(condition, classes)


class ConditionEmbedding(nn.Module):
    """Noise level and condition -> one vector [B, width_out]; the condition's part starts at unit variance."""

    def __init__(self, width: int, width_out: int, classes: int) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        self.noise_in = nn.Linear(width, width_out)
        self.noise_out = nn.Linear(width_out, width_out)
        self.label = nn.Linear(classes, width_out, bias=False) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight)

    def forward(self, c_noise: Tensor, condition: Tensor) -> Tensor:
        h = fourier(c_noise, self.width).to(self.noise_in.weight.dtype)
        h = self.noise_out(F.silu(self.noise_in(h)))
        if self.label is not None:
            h = h + self.label(as_vectors(condition, self.classes).to(h.dtype))
        return F.silu(h)


class ConditionVector(nn.Module):
    """Conditions, ids [B] below `classes` or vectors [B, classes] -> what discriminators compare pictures with, vectors
    [B, width]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.label = nn.Linear(classes, width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.normal_(self.label.weight)

    def forward(self, condition: Tensor) -> Tensor:
        known = as_vectors(condition, self.classes).to(self.label.weight.dtype)
        return F.leaky_relu(self.out(self.label(known)), 0.2)
