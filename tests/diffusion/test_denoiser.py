import math

import pytest
import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, Noise, one_step
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig

SIGMA_DATA = 0.5
SIGMAS = [0.002, 0.1, 0.5, 3.0, 80.0]


class Probe(nn.Module):
    """A raw network that remembers what it was given and answers with a constant."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        self.x, self.c_noise, self.condition = x, c_noise, condition
        return torch.full_like(x, self.value)

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        return [self(x, c_noise, condition)]


def test_with_f_zero_the_output_is_c_skip_x() -> None:
    x, sigma = torch.randn(5, 2), torch.tensor(SIGMAS)
    out = EDMDenoiser(Probe(0.0))(x, sigma, torch.zeros(5).long())
    assert torch.allclose(out, (0.25 / (sigma**2 + 0.25))[:, None] * x)


def test_the_whole_preconditioning_is_table_1() -> None:
    x, sigma, condition = torch.randn(5, 1, 2, 2), torch.tensor(SIGMAS), torch.arange(5)
    probe = Probe(1.0)
    out = EDMDenoiser(probe)(x, sigma, condition)
    for i, s in enumerate(SIGMAS):
        c_skip = SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2)
        c_out = s * SIGMA_DATA / math.sqrt(s**2 + SIGMA_DATA**2)
        c_in = 1 / math.sqrt(s**2 + SIGMA_DATA**2)
        assert torch.allclose(out[i], c_skip * x[i] + c_out, rtol=1e-5, atol=1e-6)
        assert torch.allclose(probe.x[i], c_in * x[i], rtol=1e-5)
        assert probe.c_noise[i].item() == pytest.approx(math.log(s) / 4, rel=1e-5)
    assert torch.equal(probe.condition, condition)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("s", SIGMAS)
def test_inputs_and_effective_targets_have_unit_variance(s: float, sigma_data: float) -> None:
    """EDM, appendix B.6: c_in and c_out are chosen so that network input and training target have variance 1."""
    n = 40_000
    rng = torch.Generator().manual_seed(0)
    x = sigma_data * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    x_t = x + s * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    sigma, condition = torch.full((n,), s, dtype=torch.float64), torch.zeros(n).long()
    probe = Probe(0.0)
    skipped = EDMDenoiser(probe, sigma_data)(x_t, sigma, condition)
    c_out = EDMDenoiser(Probe(1.0), sigma_data)(x_t, sigma, condition) - skipped
    target = (x - skipped) / c_out  # what F would have to answer for D to be x
    assert probe.x.var().item() == pytest.approx(1, abs=0.04)
    assert target.var().item() == pytest.approx(1, abs=0.04)
    assert torch.corrcoef(torch.cat([probe.x, target], dim=1).T)[0, 1].abs() < 0.03  # F learns what x_t does not tell


def test_without_noise_the_denoiser_is_the_identity() -> None:
    torch.manual_seed(0)
    denoiser = DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 3).build()
    x, condition = torch.randn(3, 2), torch.arange(3)
    errors = [(denoiser(x, torch.full((3,), s), condition) - x).abs().max().item() for s in (1e-1, 1e-3, 1e-5)]
    assert errors[2] < 1e-4
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_sigma_min_the_boundary_corrected_denoiser_is_exactly_the_identity(dtype: torch.dtype) -> None:
    """The condition that makes it a consistency function (arXiv 2303.01469, equation 5)."""
    torch.manual_seed(0)
    denoiser = DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 3, sigma_min=0.002).build().to(dtype)
    x, condition = torch.randn(3, 2, dtype=dtype), torch.arange(3)
    assert torch.equal(denoiser(x, torch.full((3,), 0.002, dtype=dtype), condition), x)
    assert not torch.allclose(denoiser(x, torch.full((3,), 0.1, dtype=dtype), condition), x, atol=1e-4)


def test_on_the_training_grid_it_is_the_identity_at_the_lowest_level() -> None:
    noise, spec = Noise(sigma_min=0.013), DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 3, sigma_min=0.013)
    torch.manual_seed(0)
    x = torch.randn(3, 2)
    assert torch.allclose(spec.build()(x, noise.grid(18)[0].expand(3), torch.arange(3)), x, atol=1e-7)


@pytest.mark.parametrize("low", [0.0, 0.002, 0.3])
def test_its_preconditioning_is_gdds_and_the_boundary_0_is_edms(low: float) -> None:
    """c_skip = 0.25 / ((sigma - low)^2 + 0.25), c_out = (sigma - low) 0.5 / sqrt(sigma^2 + 0.25), c_in as ever."""
    x, sigma, condition = torch.randn(5, 2), torch.tensor(SIGMAS), torch.zeros(5).long()
    probe = Probe(1.0)
    out = EDMDenoiser(probe, sigma_min=low)(x, sigma, condition)
    for i, s in enumerate(SIGMAS):
        c_skip, c_out = 0.25 / ((s - low) ** 2 + 0.25), (s - low) * 0.5 / math.sqrt(s**2 + 0.25)
        assert torch.allclose(out[i], c_skip * x[i] + c_out, rtol=1e-5, atol=1e-6)
        assert torch.allclose(probe.x[i], x[i] / math.sqrt(s**2 + 0.25), rtol=1e-5)
    if low == 0:
        assert torch.equal(out, EDMDenoiser(Probe(1.0))(x, sigma, condition))


def test_the_bottleneck_is_the_last_of_the_features() -> None:
    spec = DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=()), (1, 4, 4), 3)
    denoiser, x, sigma = spec.build(), torch.randn(2, 1, 4, 4), torch.tensor([0.1, 2.0])
    features = denoiser.features(x, sigma, torch.tensor([0, 1]))
    assert [tuple(f.shape[1:]) for f in features] == denoiser.network.feature_shapes
    assert torch.equal(denoiser.bottleneck(x, sigma, torch.tensor([0, 1])), features[-1])


def test_the_bottleneck_sees_the_same_scaled_input() -> None:
    x, sigma = torch.randn(5, 2), torch.tensor(SIGMAS)
    probe = Probe()
    denoiser = EDMDenoiser(probe)
    denoiser(x, sigma, torch.zeros(5).long())
    scaled, c_noise = probe.x, probe.c_noise
    denoiser.bottleneck(x, sigma, torch.zeros(5).long())
    assert torch.equal(probe.x, scaled)
    assert torch.equal(probe.c_noise, c_noise)


def test_one_step_is_the_denoiser_at_sigma_init_on_scaled_noise() -> None:
    z, condition = torch.randn(4, 2, dtype=torch.float64), torch.arange(4)

    def denoiser(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return x_t + 1000 * sigma[:, None] + condition[:, None]

    made = one_step(denoiser, z, condition, 2.5)
    assert torch.allclose(made, 2.5 * z + 2500 + condition[:, None])
    assert made.dtype == z.dtype
