"""Ensembles of students that are told a guidance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.diffusion import Guided, Noise, ddim
from msd_ray.ensemble import ONE_STEP, Ensemble, Sampling, save_ensemble
from msd_ray.ensemble.sampling import sampled
from msd_ray.errors import UserError
from msd_ray.networks.embedding import as_vectors
from msd_ray.storage import Store, read_manifest

from .test_several_steps import LABELS, ensemble, member

NOISE = Noise(sigma_max=20.0)
TOLD = Sampling("ddim", 6, NOISE, guidance=1.0)
ALONE = fit(PartitionConfig(k=1), Classes.numbered(3))


class Linear:
    """A student whose answer is linear in the vector of the class, as that of a teacher is in the guidance."""

    classes = 3

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        self.asked += 1
        means = torch.tensor([[0.6, 0.0], [-0.4, 0.5], [0.0, -0.7]], dtype=x.dtype)
        return as_vectors(condition, 3).to(x.dtype) @ means + 0.1 * x / (1 + sigma[:, None])


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_samples_are_those_of_a_guided_teacher_in_half_the_evaluations(guidance: float) -> None:
    student: Any = Linear()
    z, c = torch.randn(6, 2, generator=torch.Generator().manual_seed(3)), torch.arange(6) % 3
    how = Sampling("ddim", 5, NOISE, guidance=guidance)
    ours = sampled(ALONE, [student], 20.0, how, z[None], c)
    assert student.asked == how.nfe == 5
    expected = ddim(Guided(student, torch.zeros(3), guidance), z, as_vectors(c, 3), NOISE, 5)
    assert student.asked == 5 + 2 * 5 and torch.allclose(ours, expected, atol=1e-6)


def test_an_ensemble_keeps_its_guidance_and_is_asked_for_others(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "ensemble"))
    made = ensemble(1, sampling=TOLD)
    save_ensemble(store, {"name": "x"}, made.partition, LABELS, [member(0)], sampling=TOLD)
    kept = Ensemble.load(store)
    assert kept.sampling == TOLD and read_manifest(store).body["format_version"] == 7
    plain = ensemble(1, sampling=Sampling("ddim", 6, NOISE)).generate([0, 1, 2], [0, 1, 2])
    assert torch.equal(kept.generate([0, 1, 2], [0, 1, 2]), plain)
    at_two = kept.generate([0, 1, 2], [0, 1, 2], guidance=2.0)
    assert not torch.allclose(at_two, plain, atol=1e-3)
    assert torch.equal(at_two, ensemble(1, sampling=TOLD.changed(None, None, None, 2.0)).generate([0, 1, 2], [0, 1, 2]))
    none = kept.generate([0, 1], [5, 5], guidance=0.0)
    assert torch.equal(none[0], none[1])


@pytest.mark.parametrize("sampling", [ONE_STEP, Sampling("ddim", 6, NOISE)])
def test_others_have_no_guidance_to_choose(sampling: Sampling) -> None:
    with pytest.raises(UserError, match="there is none to choose"):
        sampling.changed(None, None, None, 2.0)


@pytest.mark.parametrize("guidance", [-1.0, 1e9, float("nan")])
def test_a_guidance_out_of_range_is_refused(guidance: float) -> None:
    with pytest.raises(UserError, match="guidance must be from 0 to 1000, not"):
        TOLD.changed("heun", 5, None, guidance)
