import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Noise, ddim, edm_loss, heun, nfe_of_heun, one_step, per_sample

Sampler = Callable[..., Tensor]
MEAN = torch.tensor([0.4, -0.7], dtype=torch.float64)


class Gaussian:
    """The optimal denoiser of data N(mean, std^2 I): the posterior mean of x0 given x_t."""

    def __init__(self, mean: Tensor = MEAN, std: float = 0.5, shift: float = 0.0) -> None:
        self.mean, self.std, self.shift, self.calls = mean, std, shift, 0

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        self.calls += 1
        s2 = per_sample(sigma, x_t) ** 2
        return (self.std**2 * x_t + s2 * self.mean) / (self.std**2 + s2) + self.shift * per_sample(sigma, x_t)

    def solution(self, x_top: Tensor, top: float) -> Tensor:
        """x(0) of the ODE dx/dsigma = (x - D(x; sigma)) / sigma from x_top at sigma = top."""
        return self.mean + (x_top - self.mean) * self.std / math.sqrt(self.std**2 + top**2)


def error(sampler: Sampler, steps: int) -> float:
    # sigma_min is this small because the last step, from there to 0, does not shrink with the number of steps
    noise = Noise(sigma_min=1e-5, sigma_max=10.0)
    z = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gaussian = Gaussian()
    made = sampler(gaussian, z, torch.zeros(64).long(), noise, steps)
    return (made - gaussian.solution(10.0 * z, 10.0)).abs().max().item()


@pytest.mark.parametrize(("sampler", "order"), [(heun, 2), (ddim, 1)])
def test_samplers_converge_to_the_ode_at_their_order(sampler: Sampler, order: int) -> None:
    errors = [error(sampler, steps) for steps in (64, 128, 256, 512)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_heun_beats_ddim_at_equal_cost() -> None:
    assert error(heun, 64) < 0.2 * error(ddim, nfe_of_heun(64))


@pytest.mark.parametrize("steps", [1, 2, 7, 18])
def test_network_evaluations_are_what_is_claimed(steps: int) -> None:
    z, condition = torch.randn(2, 2), torch.zeros(2).long()
    gaussian = Gaussian(MEAN.float())
    heun(gaussian, z, condition, Noise(), steps)
    assert gaussian.calls == nfe_of_heun(steps) == 2 * steps - 1
    gaussian.calls = 0
    ddim(gaussian, z, condition, Noise(), steps)
    assert gaussian.calls == steps


def test_18_steps_of_heun_are_35_evaluations() -> None:
    assert nfe_of_heun(18) == 35


@pytest.mark.parametrize("sampler", [heun, ddim])
def test_a_single_step_is_the_denoiser_at_sigma_max(sampler: Sampler) -> None:
    z, condition, gaussian = torch.randn(8, 2, dtype=torch.float64), torch.zeros(8).long(), Gaussian()
    assert torch.allclose(
        sampler(gaussian, z, condition, Noise(), 1), one_step(gaussian, z, condition, 80.0), atol=1e-6
    )


@pytest.mark.parametrize("sampler", [heun, ddim])
def test_samples_have_the_distribution_of_the_data(sampler: Sampler) -> None:
    z = torch.randn(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = sampler(Gaussian(), z, torch.zeros(len(z)).long(), Noise(), 100)
    assert (x.mean(dim=0) - MEAN).abs().max() < 0.02
    assert (x.std(dim=0) - 0.5).abs().max() < 0.03


@pytest.mark.parametrize("sampler", [heun, ddim])
def test_samplers_hand_on_the_condition_and_build_no_graph(sampler: Sampler) -> None:
    weight = torch.ones(1, requires_grad=True)
    seen = []

    def denoiser(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        seen.append((sigma, condition))
        return weight * condition[:, None].float().expand_as(x_t)

    condition = torch.tensor([3, 5])
    x = sampler(denoiser, torch.randn(2, 2), condition, Noise(), 4)
    assert torch.allclose(x, torch.tensor([[3.0, 3.0], [5.0, 5.0]]), atol=1e-4)
    assert not x.requires_grad
    assert all(torch.equal(c, condition) and s.shape == (2,) for s, c in seen)


def gaussian_loss(gaussian: Gaussian, seed: int = 0) -> float:
    rng = torch.Generator().manual_seed(seed)
    x = MEAN + 0.5 * torch.randn(50_000, 2, generator=rng, dtype=torch.float64)
    return edm_loss(gaussian, x, torch.zeros(len(x)).long(), rng).item()


def test_edm_loss_of_the_optimal_denoiser_is_1_where_the_data_have_sigma_data() -> None:
    """The weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 is one over the posterior variance."""
    assert gaussian_loss(Gaussian()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "other", [Gaussian(MEAN + 0.1), Gaussian(std=0.4), Gaussian(std=0.6), Gaussian(shift=0.1), Gaussian(shift=-0.1)]
)
def test_edm_loss_is_least_for_the_optimal_denoiser(other: Gaussian) -> None:
    assert gaussian_loss(other) > gaussian_loss(Gaussian()) + 0.002


def test_edm_loss_draws_its_noise_levels_log_normally() -> None:
    seen: list[Tensor] = []

    def denoiser(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        seen.append(sigma)
        return x_t

    rng = torch.Generator().manual_seed(0)
    x = torch.zeros(20_000, 1, dtype=torch.float64)
    loss = edm_loss(denoiser, x, torch.zeros(len(x)).long(), rng, p_mean=-0.4, p_std=1.0)
    assert seen[0].log().mean().item() == pytest.approx(-0.4, abs=0.03)
    assert seen[0].log().std().item() == pytest.approx(1.0, abs=0.03)
    # the error of the identity is sigma n, so its weighted mean square is E[(sigma^2 + 0.25) / 0.25]
    assert loss.item() == pytest.approx(((seen[0] ** 2 + 0.25) / 0.25).mean().item(), rel=0.1)
