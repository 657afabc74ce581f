"""Networks that were trained at numbered steps, as those of diffusers, as denoisers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Network, Noise, NoiseTable, Stepped, one_step
from msd_ray.validation import in_range

from .processes import CASES, FLOWS, STEPS, VP, Known, S


@pytest.mark.parametrize(("prediction", "table"), CASES)
def test_a_denoiser_of_gaussian_data(prediction: Any, table: NoiseTable) -> None:
    sigma = table.sigmas
    x_t = torch.randn(len(sigma), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * sigma[:, None]
    denoiser = EDMDenoiser(
        Known(prediction, table, 5).double(), preconditioning=Stepped(prediction=prediction, table=table)
    )
    wanted = (S**2 / (S**2 + sigma**2))[:, None] * x_t
    assert torch.allclose(denoiser(x_t, sigma, torch.zeros(len(sigma)).long()), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("prediction", "table"), CASES)
def test_at_sigma_min_the_denoiser_is_the_identity(prediction: Any, table: NoiseTable) -> None:
    c = Stepped(prediction=prediction, table=table).coefficients(table.sigmas, 0.5, float(table.sigmas[3]))
    assert (c.c_skip[3], c.c_out[3]) == (1, 0)
    assert (c.c_out[4:] != 0).all()


@pytest.mark.parametrize("schedule", VP)
def test_the_tables_are_those_of_diffusers(schedule: str) -> None:
    from diffusers import DDPMScheduler

    for zero in (False, True):
        theirs = DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero).alphas_cumprod.double()
        ours = NoiseTable(schedule, zero_terminal_snr=zero).sigmas  # type: ignore[arg-type]
        assert len(ours) == 1000 - zero and (ours.diff() > 0).all()
        assert torch.allclose(ours[:990], ((1 - theirs) / theirs).sqrt()[:990], rtol=3e-3)


def test_the_shift_of_a_flow_is_that_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    u = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas.double().flip(0)[:-1]  # the last is pure noise
    table = NoiseTable("flow", shift=3.0)
    assert torch.allclose(table.sigmas, u / (1 - u), rtol=1e-3)
    assert torch.allclose(table.step_of(table.sigmas), 1000 * u, rtol=1e-4)


def test_published_ends() -> None:
    stable = NoiseTable("scaled_linear", beta_start=0.00085, beta_end=0.012).sigmas
    assert (stable[0].item(), stable[-1].item()) == pytest.approx((0.02917, 14.6146), rel=1e-4)
    assert NoiseTable().sigmas[[0, -1]].tolist() == pytest.approx([0.01, 157.4], rel=1e-3)


def test_between_two_levels_the_step_is_linear_in_log_sigma() -> None:
    table = VP["linear"]
    low, high = table.sigmas[4], table.sigmas[5]
    assert table.step_of((low**0.25 * high**0.75)[None]).item() == pytest.approx(4.75)
    assert table.step_of(torch.tensor([1e-9, 1e9])).tolist() == [0, STEPS - 1]
    assert torch.allclose(table.step_of(table.sigmas), torch.arange(STEPS).double())


def test_one_step_starts_from_noise_of_unit_variance_in_the_networks_coordinates() -> None:
    seen = []

    class Seeing(Network):
        def forward(self, x: Tensor, step: Tensor, condition: Tensor) -> Tensor:
            seen.append(x)
            return x

    z = torch.randn(3, 2)
    for table in (VP["scaled_linear"], FLOWS[3.0]):
        denoiser = EDMDenoiser(Seeing(), preconditioning=Stepped("stepped", "sample", table))
        one_step(denoiser, z, torch.zeros(3).long(), 14.6)
        assert torch.allclose(seen.pop(), z, rtol=1e-6)


def test_noise_can_be_a_table() -> None:
    table = NoiseTable("scaled_linear", beta_start=0.00085, beta_end=0.012)
    whole = Noise(sigma_max=80.0, table=table).grid()
    assert torch.equal(whole, table.sigmas.float())
    cut = Noise(sigma_min=0.1, sigma_max=5.0, table=table).grid(10)
    assert len(cut) == 10 and cut[0] >= 0.1 and cut[-1] <= 5 and (cut.diff() > 0).all()
    assert set(cut.tolist()) <= set(whole.tolist())
    with pytest.raises(ValueError, match="fewer than two levels"):
        Noise(sigma_min=20.0, table=table)


@pytest.mark.parametrize("bad", [{"steps": 2}, {"beta_end": 1.0}, {"shift": 0.0}, {"schedule": "sigmoid"}])
def test_bad_tables_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        in_range(NoiseTable(**bad))


@pytest.mark.parametrize(("prediction", "schedule"), [("v_prediction", "flow"), ("flow", "linear")])
def test_predictions_belong_to_their_process(prediction: Any, schedule: Any) -> None:
    with pytest.raises(ValueError, match="is not defined on the schedule"):
        Stepped(prediction=prediction, table=NoiseTable(schedule))
