"""Students that train in another way than the default's survive kill -9 bit for bit as well."""

from pathlib import Path

import pytest
import torch

from msd_ray.ensemble import read_description, read_member
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store

from .conftest import TINY, Ear
from .test_objectives import KillerInEachStage, train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
WAYS = {
    "bf16": ("training.precision=bf16",),
    "recompute": ("training.recompute=true",),
    "shards": ("training.shards=4",),
    "host": ("training.optimizer_state=host",),
    "compile": ("training.compile=true",),
    "adapter": ("student.adapter={rank: 2}",),
    "adapter, a fake score of all weights": ("student.adapter={rank: 2}", "student.fake_adapter=none"),
}
TOGETHER = tuple(override for way in ("bf16", "recompute", "shards", "host", "adapter") for override in WAYS[way])


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(TOGETHER, id="together"),
        *(pytest.param(way, id=name, marks=pytest.mark.nightly) for name, way in WAYS.items()),
    ],
)
def test_students_killed_in_every_stage_end_as_if_undisturbed(overrides: tuple[str, ...], tmp_path: Path) -> None:
    killer, plain = KillerInEachStage(), [*overrides, "teacher.images=1_280", "stages.dm.images=640"]
    disturbed = RunContext.of(TINY, plain, str(tmp_path / "disturbed"))
    weights = train(disturbed, killer)
    assert all(k.victim for k in killer.killers) and len(killer.killers) == 2
    assert sum(s.restarts for s in killer.statuses) == 2
    expected = train(RunContext(disturbed.recipe, Store(str(tmp_path / "apart"))), Ear())
    for ours, theirs in zip(weights, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    known = read_description(disturbed.store.child("ensemble"))
    adapted = any("adapter" in override for override in overrides)
    assert all((read_member(known, i).adapter is not None) == adapted for i in range(known.partition.k))
