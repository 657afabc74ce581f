"""Students of Gaussian experts train through the driver, survive kill -9 bit for bit, and are served as others are."""

from pathlib import Path

import pytest
import torch

from msd_ray.ensemble import Ensemble
from msd_ray.runs.run_context import RunContext

from .conftest import TINY
from .test_objectives import KillerInEachStage, train, train_here

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
STAGE = "{objective: vdd, images: 640, batch: 16, generator_lr: 1e-3, options: {falling: 320}}"
OVERRIDES = [f"stages={{vdd: {STAGE}}}", "student={experts: 3}", "noise.sigma_init=1000", "seed=3"]


def test_experts_whose_process_is_killed_end_as_if_undisturbed(tmp_path: Path) -> None:
    killer, context = KillerInEachStage(), RunContext.of(TINY, OVERRIDES, str(tmp_path / "run"))
    weights = train(context, killer)
    assert [bool(k.victim) for k in killer.killers] == [True] and sum(s.restarts for s in killer.statuses) == 1
    for ours, theirs in zip(weights, train_here(context), strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    ensemble = Ensemble.load(str(tmp_path / "run" / "ensemble"))
    x = ensemble.generate([0, 1, 2, 3], [7, 7, 7, 7])
    assert x.shape == (4, 2) and x.isfinite().all() and torch.equal(x[2:3], ensemble.generate([2], [7]))
