"""Students' checkpoints as the commands on a run see them: large, so nothing reads them without need."""

from pathlib import Path

import pytest

from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.networks.weights import StoredWeights
from msd_ray.runs.curves import curves
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import assemble, folder, has_ensemble, images_of
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State

from .finished import finished, weights


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return finished(
        tmp_path / "run", ["stages={dm: {objective: dm, images: 160, batch: 16}}", "partition.kind=sequential"]
    )


def test_how_far_a_run_is_is_learnt_without_tensors(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredWeights, "read", lambda self: pytest.fail(f"{self.name} was read"))
    monkeypatch.setattr("msd_ray.networks.weights.read_chunks", lambda *_: pytest.fail("weights were read"))
    assert [images_of(run.store, student) for student in run.plan.students] == [
        student.spec.images for student in run.plan.students
    ]
    assert all(has_ensemble(run.store, ensemble) for ensemble in run.plan.ensembles)
    assert set(curves(run.store, run.plan)["student"]) == {student.name for student in run.plan.students}
    assert Ensemble.load(folder(run.store, "ensemble")).parameters > 0


def test_a_checkpoint_that_turns_out_damaged_is_dropped_and_the_one_before_counts(run: RunContext) -> None:
    store, plan, student = run.store, run.plan, run.plan.students[1]
    home = folder(store, student.directory)
    Checkpoints(home, 2).save(State({"ema": weights(student.spec.denoiser, 0)}, {"nimg": student.spec.images + 16}))
    last = home.child(home.names()[-1])
    content = last.read("ema.safetensors")
    last.write("ema.safetensors", content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError) as told:
        assemble(store, plan, plan.ensembles[0])
    assert str(told.value) == "a student's checkpoint was damaged and is dropped; run the same command again"
    assert images_of(store, student) == student.spec.images
    assemble(store, plan, plan.ensembles[0])
