"""Students that enlarge pictures train through the driver and the pool, survive kill -9 bit for bit, and answer for
pictures that nobody trained on."""

from pathlib import Path

import pytest
import torch

from msd_ray.conditions.picture_prompt import as_text
from msd_ray.ensemble import Ensemble
from msd_ray.runs.run_context import RunContext

from .conftest import Ear
from .test_objectives import KillerInEachStage, train, train_here

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
STAGE = "{objective: adm, images: 640, batch: 16, fake_steps: 1, generator_lr: 1e-3, fake_lr: 1e-3, warmup: 160}"
OVERRIDES = [
    f"stages={{adm: {STAGE}}}",
    "network.unet={channels: 4, multipliers: [1, 2], blocks: 1, attention: []}",
    "teacher={images: 640, batch: 64, warmup: 64}",
    "training={log_every: 160, checkpoint_every: 320}",
    "evaluation.samples=64",
]


def test_students_of_pictures_whose_process_is_killed_end_as_if_undisturbed(tmp_path: Path) -> None:
    killer, context = KillerInEachStage(), RunContext.of("digits-super-resolution", OVERRIDES, str(tmp_path / "run"))
    weights = train(context, killer)
    assert [bool(k.victim) for k in killer.killers] == [True] and sum(s.restarts for s in killer.statuses) == 1
    for ours, theirs in zip(weights, train_here(context), strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert train(context, Ear())  # nothing is left to train
    pictures = torch.randint(256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    texts, ensemble = [as_text(each) for each in pictures], Ensemble.load(str(tmp_path / "run" / "ensemble"))
    x = ensemble.generate(texts, [7, 7, 7])
    assert x.shape == (3, 1, 8, 8) and torch.equal(x[1:2], ensemble.generate(texts[1:2], [7]))
    assert not torch.equal(x[0], x[1])
