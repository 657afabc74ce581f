"""The denoiser that teacher, fake score and student share, with EDM's preconditioning (arXiv 2206.00364, table 1)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from msd_ray.diffusion.noise import per_sample


class Denoiser(Protocol):
    """x_t [B, ...], sigma [B], condition [B] (their ids) -> estimate of x0 [B, ...]."""

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor: ...


class Network(nn.Module):
    """A raw network F(x, c_noise, condition); `encode` is its first half, up to its narrowest point."""

    feature_shapes: list[tuple[int, ...]]

    @property
    def bottleneck_shape(self) -> tuple[int, ...]:
        return self.feature_shapes[-1]

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """Features at every resolution on the way to the narrowest point, [B, *feature_shapes[i]]."""
        raise NotImplementedError


def as_it_is(device_type: str) -> AbstractContextManager[Any]:
    """A context that changes nothing."""
    return nullcontext()


def given(condition: Tensor) -> Tensor:
    """The conditions as they are."""
    return condition


class EDMDenoiser(nn.Module):
    """D(x_t; sigma, c) = c_skip x_t + c_out F(c_in x_t; log(sigma) / 4, c), for a raw network F.

    sigma_min: noise level at which D is the identity, 0 as in EDM; consistency models have it above 0
    (arXiv 2303.01469, appendix C). around: makes the context in which F runs on a type of device; the preconditioning
    runs outside of it. embed: what F takes for conditions [B], as D is given them.
    """

    around: Callable[[str], AbstractContextManager[Any]]
    embed: Callable[[Tensor], Tensor]

    def __init__(self, network: Network, sigma_data: float = 0.5, sigma_min: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min
        self.around = as_it_is
        self.embed = given

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        s, d = per_sample(sigma, x_t), self.sigma_data
        c_skip = d**2 / ((s - self.sigma_min) ** 2 + d**2)
        c_out = (s - self.sigma_min) * d / (s**2 + d**2).sqrt()
        with self.around(x_t.device.type):
            f = self.network(self._scaled(x_t, s), sigma.log() / 4, self.embed(condition))
        x0: Tensor = c_skip * x_t + c_out * f.to(x_t.dtype)
        return x0

    def bottleneck(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """The network's features at its narrowest point, [B, *network.bottleneck_shape], for discriminator heads."""
        return self.features(x_t, sigma, condition)[-1]

    def features(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> list[Tensor]:
        """The network's features at every resolution, [B, *network.feature_shapes[i]], the bottleneck last."""
        with self.around(x_t.device.type):
            scaled = self._scaled(x_t, per_sample(sigma, x_t))
            maps = self.network.encode(scaled, sigma.log() / 4, self.embed(condition))
        return [h.to(x_t.dtype) for h in maps]

    def _scaled(self, x_t: Tensor, s: Tensor) -> Tensor:
        return x_t / (s**2 + self.sigma_data**2).sqrt()


def one_step(generator: Denoiser, z: Tensor, condition: Tensor, sigma_init: float) -> Tensor:
    """G(sigma_init z; sigma_init, c): what a one-step generator makes of the noise z ~ N(0, I), [B, ...]."""
    sigma = torch.full((len(z),), sigma_init, dtype=z.dtype, device=z.device)
    return generator(sigma_init * z, sigma, condition)
