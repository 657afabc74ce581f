"""The denoiser that teacher, fake score and student share."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from msd_ray.diffusion.noise import per_sample
from msd_ray.diffusion.preconditioning import EDM, Coefficients, Masked, Preconditioning, start
from msd_ray.diffusion.tokens import drawn_tokens, first_tokens


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

    def origin(self, condition: Tensor) -> Tensor | None:
        """What a generator's first noise is added to, [B, ...] as its samples; None for nothing."""
        return None


def as_it_is(x: Tensor) -> AbstractContextManager[Tensor]:
    """A context that changes nothing."""
    return nullcontext(x)


def direct(network: nn.Module, *inputs: Tensor) -> Tensor:
    """What the network makes of its inputs."""
    made: Tensor = network(*inputs)
    return made


def given(condition: Tensor) -> Tensor:
    """The conditions as they are."""
    return condition


_EDM = EDM()


class EDMDenoiser(nn.Module):
    """D(x_t; sigma, c) = c_skip x_t + c_out F(c_in x_t; c_noise, c), for a raw network F.

    sigma_min: noise level at which D is the identity, 0 as in EDM; consistency models have it above 0. preconditioning:
    gives the coefficients, EDM's own by default. around: makes the context in which F runs, and in it the input as F
    takes it; the preconditioning runs outside of it. run: calls F on its inputs. embed: what F takes for conditions
    [B], as D is given them: ids below `classes`, the number of conditions (0 for none), or vectors [B, classes].
    """

    around: Callable[[Tensor], AbstractContextManager[Tensor]]
    run: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]

    def __init__(
        self,
        network: Network,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        preconditioning: Preconditioning = _EDM,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min
        self.preconditioning = preconditioning
        self.around, self.run = as_it_is, direct
        self.embed = given

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        c = self._coefficients(sigma)
        with self.around(x_t / per_sample(c.scale, x_t)) as x:
            f = self.run(self.network, x, c.c_noise, self.embed(condition))
        x0: Tensor = per_sample(c.c_skip, x_t) * x_t + per_sample(c.c_out, x_t) * f.to(x_t.dtype)
        return x0

    def bottleneck(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """The network's features at its narrowest point, [B, *network.bottleneck_shape], for discriminator heads."""
        return self.features(x_t, sigma, condition)[-1]

    def features(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> list[Tensor]:
        """The network's features at every resolution, [B, *network.feature_shapes[i]], the bottleneck last."""
        c = self._coefficients(sigma)
        with self.around(x_t / per_sample(c.scale, x_t)) as x:
            maps = self.network.encode(x, c.c_noise, self.embed(condition))
        return [h.to(x_t.dtype) for h in maps]

    def origin(self, condition: Tensor) -> Tensor | None:
        """The network's, of these conditions."""
        return self.network.origin(self.embed(condition))

    def _coefficients(self, sigma: Tensor) -> Coefficients:
        return self.preconditioning.coefficients(sigma, self.sigma_data, self.sigma_min)


def one_step(generator: Denoiser, z: Tensor, condition: Tensor, sigma_init: float) -> Tensor:
    """G(sigma_init z; sigma_init, c): what a one-step generator makes of the noise z ~ N(0, I), [B, ...]. Networks that
    were trained at steps start from z in the coordinates of their table instead; those of tokens draw what they start
    from and what they end with."""
    sigma = torch.full(z.shape[:1], sigma_init, dtype=z.dtype, device=z.device)
    x = generator(at_start(generator, z, condition, sigma_init), sigma, condition)
    return drawn_tokens(x, z) if isinstance(_preconditioning(generator), Masked) else x


def at_start(generator: Denoiser, z: Tensor, condition: Tensor, sigma_init: float) -> Tensor:
    """The noise z ~ N(0, I) as the generator takes it at its first level."""
    how = _preconditioning(generator)
    if isinstance(how, Masked):
        return first_tokens(z, sigma_init)
    return from_origin(generator, (start(how, sigma_init) if how else sigma_init) * z, condition)


def from_origin(generator: Denoiser, noise: Tensor, condition: Tensor) -> Tensor:
    """The noise [B, ...] as the generator begins with it: on the picture of its condition where its network begins
    there (`student.begins`), alone otherwise."""
    find = getattr(generator, "origin", None)
    origin = find(condition) if find else None
    return noise if origin is None else noise + origin


def _preconditioning(generator: Denoiser) -> Preconditioning | None:
    return getattr(generator, "preconditioning", None)
