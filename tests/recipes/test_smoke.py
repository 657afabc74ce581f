"""Every shipped recipe trains, cut to a few updates of narrow networks; without Ray."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from msd_ray.cluster.students import RunInputs, StudentTask
from msd_ray.errors import UserError
from msd_ray.objectives import objective_class
from msd_ray.recipes import load_recipe
from msd_ray.recipes.load import shipped
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_partition
from msd_ray.runs.teacher_cache import keep_teacher
from msd_ray.storage import Store
from msd_ray.teachers.kept_teacher import KeptTeacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.records import Records
from msd_ray.training.state import State, tensors_of

from .stand_ins import as_arguments, stand_ins

OWN = [name for name in shipped() if not name.startswith(("digits", "toy2d"))]
"""The others train in full elsewhere."""


@pytest.mark.parametrize("name", [*OWN, "digits-steps", "digits-phases"])
def test_a_smoke_run_trains_every_stage(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, home = tmp_path / "cache", Store(str(tmp_path / "run"))
    monkeypatch.setenv("MSD_RAY_CACHE", str(cache))
    monkeypatch.setattr(StudentTask, "_judge", lambda *_: SimpleNamespace(fid=lambda x: 1.0))
    overrides = as_arguments(stand_ins(name, tmp_path / "data"))
    plan = RunContext.of(name, [*overrides, "smoke=true", "training.precision=fp32"], home.uri).plan
    spec = replace(plan.first, begins=0)  # it trains the shared stages itself
    assert list(spec.stages) == list(load_recipe(name).stages)
    torch.manual_seed(0)
    facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    teacher = Store(str(tmp_path / "teacher"))
    keep_teacher(teacher, plan.teacher, State({"ema": tensors_of(plan.teacher.build())}, facts), plan.conditions_spec)
    recipe, kept = plan.recipe, plan.source or KeptTeacher(teacher)
    inputs = RunInputs(recipe.data, recipe.conditions, recipe.evaluation, Store(str(cache)), kept, None, 0.0)
    keep_partition(home, plan.ensembles[0])
    task = StudentTask(spec, home, range(1), home.child("student"), inputs)
    training = task.open()
    while not training.advance(spec.images, [], lambda: False).done:
        pass
    state = Checkpoints(task.checkpoints, 1).latest()
    assert state and state.meta["nimg"] == spec.images
    losses = {(m.stage, m.name): m.value for m in Records(task.checkpoints).until(spec.images)}
    assert {stage for stage, _ in losses} == set(spec.stages)
    assert all(map(math.isfinite, losses.values()))
    assert not any(value for (_, metric), value in losses.items() if metric == "skipped")


@pytest.mark.parametrize("kind", ["diffusers-dit", "diffusers-pixart", "diffusers-sd3"])
def test_smoke_leaves_two_layers_of_a_transformer(kind: str) -> None:
    network = load_recipe("digits", ["smoke=true", f"network={{kind: {kind}}}"]).network
    assert (network.num_attention_heads, network.num_layers) == (2, 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", shipped())
def test_smoke_changes_shapes_and_lengths_only(name: str) -> None:
    whole, small = load_recipe(name), load_recipe(name, ["smoke=true"])
    assert list(small.stages) == list(whole.stages)
    for stage, cut in ((whole.stages[key], small.stages[key]) for key in whole.stages):
        assert cut.images <= 16 < stage.images
        same = ("objective", "generator_lr", "fake_lr", "fake_steps", "optimizer", "betas", "clip", "shared")
        assert [getattr(cut, key) for key in same] == [getattr(stage, key) for key in same]
        sizes = {"gan_from", "side"}
        assert {k: v for k, v in cut.options.items() if k not in sizes} == {
            k: v for k, v in stage.options.items() if k not in sizes
        }
        assert objective_class(cut.objective) is objective_class(stage.objective)
    workers = small.cluster.workers_per_student
    assert (
        small.cluster == replace(whole.cluster, workers_per_student=workers) and max(workers) <= 2
    )  # images of a batch
    for part in ("data", "noise", "partition", "codec", "conditions"):
        assert getattr(small, part) == getattr(whole, part)
    assert (small.teacher.source, small.teacher.options) == (whole.teacher.source, whole.teacher.options)
    assert small.network.kind == whole.network.kind


def test_smoke_is_true_or_false() -> None:
    with pytest.raises(UserError, match="smoke: must be true or false"):
        load_recipe("digits", ["smoke=3"])
