import json
import math

import pytest
import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDM, IDDPM, PRECONDITIONINGS, VE, VP, EDMDenoiser, Preconditioning
from msd_ray.diffusion.preconditioning import cosine_levels
from msd_ray.errors import CorruptError
from msd_ray.networks import DenoiserSpec, MLPConfig

ALL = [EDM(), EDM(noise_scale=1000.0), VP(), VE(), IDDPM()]
SIGMA = torch.tensor([0.02, 0.5, 3.0, 80.0], dtype=torch.float64)


class Exact(nn.Module):
    """The network with which D is the denoiser of N(0, s^2): the one F that solves c_skip x + c_out F = D."""

    def __init__(self, how: Preconditioning, s: float) -> None:
        super().__init__()
        self.how, self.s = how, s

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        c = self.how.coefficients(SIGMA, 0.5)
        assert torch.equal(c_noise, c.c_noise)
        wanted = self.s**2 / (self.s**2 + SIGMA**2)  # D(x_t) / x_t
        return x * (c.scale * (wanted - c.c_skip) / c.c_out)[:, None]


@pytest.mark.parametrize("how", ALL)
def test_a_denoiser_of_gaussian_data(how: Preconditioning) -> None:
    x_t = torch.linspace(-90, 90, 20, dtype=torch.float64).reshape(4, 5)
    out = EDMDenoiser(Exact(how, 0.7), preconditioning=how)(x_t, SIGMA, torch.zeros(4).long())
    assert torch.allclose(out, (0.49 / (0.49 + SIGMA**2))[:, None] * x_t, rtol=1e-10)


@pytest.mark.parametrize("how", ALL)
def test_at_sigma_min_the_denoiser_is_the_identity(how: Preconditioning) -> None:
    c = how.coefficients(SIGMA, 0.5, sigma_min=0.5)
    assert c.c_skip[1] == 1
    assert c.c_out[1] == 0
    assert (c.c_out[2:] != 0).all()


def test_noise_inputs_are_those_of_table_1() -> None:
    """VP's time is the one at which its process has that noise: sigma^2 = exp(beta_d t^2 / 2 + beta_min t) - 1."""
    t = VP().coefficients(SIGMA, 0.5).c_noise / 999
    assert torch.allclose((19.9 * t**2 / 2 + 0.1 * t).exp() - 1, SIGMA**2, rtol=1e-9)
    assert VE().coefficients(SIGMA, 0.5).c_noise[1].item() == pytest.approx(math.log(0.25))
    assert EDM(noise_scale=1000).coefficients(SIGMA, 0.5).c_noise[2].item() == pytest.approx(250 * math.log(3))


def test_iddpm_takes_the_nearest_of_its_steps() -> None:
    levels = cosine_levels()
    assert len(levels) == 1000
    assert (levels.diff() > 0).all()
    assert torch.allclose(levels[[0, -1]], torch.tensor(IDDPM.span, dtype=torch.float64), rtol=0.01)
    asked = torch.cat([levels[[0, 1, 500, 999]] * 1.0001, torch.tensor([0.0, 1e9])])
    assert IDDPM().coefficients(asked, 0.5).c_noise.tolist() == [0, 1, 500, 999, 0, 999]


@pytest.mark.parametrize("how", ALL)
def test_a_description_keeps_it(how: Preconditioning) -> None:
    spec = DenoiserSpec(MLPConfig(width=8), (2,), 0, preconditioning=how)
    assert DenoiserSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.build().preconditioning == how
    assert how.kind in PRECONDITIONINGS


def test_descriptions_of_before_are_edms_and_stay_as_they_were() -> None:
    said = DenoiserSpec(MLPConfig(width=8), (2,), 0).to_json()
    assert list(said) == ["network", "sample_shape", "classes", "sigma_data", "sigma_min"]
    assert DenoiserSpec.from_json(said).preconditioning == EDM()


@pytest.mark.parametrize(
    "wrong", [{"kind": "pv"}, {"kind": "vp", "beta": 1}, {"kind": "vp", "beta_d": "x"}, {}, None, 1]
)
def test_what_is_no_preconditioning_is_corrupt(wrong: object) -> None:
    said = DenoiserSpec(MLPConfig(width=8), (2,), 0).to_json()
    with pytest.raises(CorruptError):
        DenoiserSpec.from_json({**said, "preconditioning": wrong})
