"""Students of tokens train through the driver, survive kill -9 bit for bit, and are generated from and judged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from msd_ray.codecs.levels import are_tokens
from msd_ray.ensemble import Ensemble
from msd_ray.runs.evaluation_pieces import here
from msd_ray.runs.generate import generate_file
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_results import measured_rows

from .test_objectives import KillerInEachStage, train, train_here

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
STAGE = "{objective: dimo, images: 640, batch: 16, generator_lr: 1e-3, fake_lr: 1e-3, warmup: 0}"
OVERRIDES = [
    f"stages={{dimo: {STAGE}}}",
    "data.options.levels=5",
    "network={kind: unet, channels: 8, multipliers: [1], blocks: 1, attention: []}",
    "teacher={images: 320, batch: 32, warmup: 0, steps: 3}",
    "partition.k=2",
    "training.checkpoint_every=160",
    "evaluation={samples: 40, kid_subsets: 2}",
    "cluster.max_slots=2",
]


def test_students_of_tokens_whose_process_is_killed_end_as_if_undisturbed(tmp_path: Path) -> None:
    killer, context = KillerInEachStage(), RunContext.of("digits-tokens", OVERRIDES, str(tmp_path / "run"))
    weights = train(context, killer)
    assert [bool(k.victim) for k in killer.killers] == [True] and sum(s.restarts for s in killer.statuses) == 1
    for ours, theirs in zip(weights, train_here(context), strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    check_samples(tmp_path / "run")
    check_rows(context)


def check_samples(run: Path) -> None:
    """The same bits, alone or among others, from the ensemble and from the command."""
    ensemble = Ensemble.load(str(run / "ensemble"))
    x = ensemble.generate([0, 4, 5, 9], [7, 7, 7, 7])
    assert are_tokens(x) and torch.equal(x[2:3], ensemble.generate([5], [7])) and ensemble.nfe == 1
    facts = generate_file(str(run), "5", "7", run / "x.npy")
    assert facts["nfe"] == 1 and np.array_equal(np.load(run / "x.npy")[0, 0], x[2].numpy())
    generate_file(str(run), "0-9", "0-1", run / "x.png")


def check_rows(context: RunContext) -> None:
    rows = {row.name: row.nfe for row in measured_rows(context, here, lambda _: None)}
    assert rows["teacher"] == 3 and rows["ensemble"] == 1
