"""Each objective, a user's own included, trains through the driver and survives kill -9 bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.ensemble import read_description, read_member
from msd_ray.objectives import OBJECTIVES
from msd_ray.runs.init_weights import starting_weights
from msd_ray.runs.pairs import chunks_of, load_pairs, pairs_folder
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.storage import Store
from msd_ray.teachers import LocalTeacher
from msd_ray.teachers.kept_teacher import KeptTeacher
from msd_ray.training.state import Tensors
from msd_ray.training.student_spec import Extras
from msd_ray.training.student_trainer import StudentTrainer

from .conftest import TINY, Ear, Killer

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
OWN = "a_users_objective:Bootstrap"
BY_OUTPUT = (
    "tsm",
    "dm",
    "adm",
    "dmd",
    "f-distill",
    "gdd",
    "consistency",
    "fd",
    "pd",
    "moment-matching",
    "boot",
    "pid",
    "rdd",
    "sfddm",
    "multi-guidance",
    "flow-trajectory",
    "dfosd",
    OWN,
)
BY_GRADIENT = ("sid", "sida", "uni-instruct")
BY_TIMESTEPS = ("o2mkd",)


class KillerInEachStage(Ear):
    """A Listener that has a student's process killed -9 whenever a student is first heard from in a new stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: set[str] = set()
        self.killers: list[Killer] = []

    def watch(self, statuses: list[Any]) -> None:
        super().watch(statuses)
        new = {s.progress.stage for s in statuses if s.progress and not s.progress.done} - self.stages - {"teacher"}
        self.stages |= new
        self.killers += [Killer("ray::Slot.advance", 0.0) for _ in new]


def setting_of(objectives: tuple[str, ...], run_dir: Path) -> RunContext:
    """Two students that go through a short stage of each objective."""
    stages = ", ".join(
        f"s{i}: {{objective: '{name}', images: 640, batch: 16, fake_steps: 1, generator_lr: 1e-3, fake_lr: 1e-3, "
        f"fake_first: 32, shared: false, options: {{{'gan_from: 64' if name in ('sida', 'uni-instruct') else ''}}}}}"
        for i, name in enumerate(objectives)
    )
    parts = "{k: 1, timesteps: 2}" if objectives == BY_TIMESTEPS else "{k: 2, kind: sequential}"
    overrides = [
        f"stages={{{stages}}}",
        f"partition={parts}",
        "pairs=64",
        "teacher.steps=4",
        "teacher.dropped=0.1",
        "seed=3",
    ]
    return RunContext.of(TINY, overrides, str(run_dir))


def train(context: RunContext, ear: Ear) -> list[Tensors]:
    """The weights of the ensemble's students."""
    from msd_ray.cluster.train import train as train_plan

    train_plan(context.plan, context.store, context.cache, None, ear)
    known = read_description(context.store.child("ensemble"))
    return [read_member(known, i).read() for i in range(known.partition.k)]


def train_here(context: RunContext) -> list[Tensors]:
    """The same weights from the run's teacher in this process, where nobody disturbs them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    plan, store = context.plan, context.store.child("teacher")
    teacher, weights, pairs = load_teacher(KeptTeacher(store)), [], None
    if any(spec.objective(stage).needs.pairs for spec in [plan.first] for stage in spec.stages):
        pairs = load_pairs(pairs_folder(context.cache, plan), chunks_of(plan), plan.teacher.sample_shape)
    for student in plan.students:
        owned = plan.ensembles[0].partition.owned_by(student.spec.index, plan.conditions)
        initial, fake = starting_weights(student.spec, owned, KeptTeacher(store), "")
        real, extras = context.data.train.only(owned.ids), Extras(fake, teacher, pairs)
        trainer = StudentTrainer(student.spec, owned, LocalTeacher(teacher), initial, real, "cpu", extras)
        trainer.advance(student.spec.images)
        weights.append(trainer.state_dict().tensors["ema"])
    return weights


def test_every_objective_is_tried() -> None:
    assert {*BY_OUTPUT, *BY_GRADIENT, *BY_TIMESTEPS} == {*OBJECTIVES, OWN}


@pytest.mark.parametrize("objectives", [BY_OUTPUT, BY_GRADIENT, BY_TIMESTEPS], ids=" ".join)
def test_students_killed_in_every_stage_end_as_if_undisturbed(objectives: tuple[str, ...], tmp_path: Path) -> None:
    killer, disturbed = KillerInEachStage(), setting_of(objectives, tmp_path / "disturbed")
    weights = train(disturbed, killer)
    assert all(k.victim for k in killer.killers) and len(killer.killers) == len(objectives)
    assert sum(s.restarts for s in killer.statuses) == len(objectives)
    # A remote teacher's gradient joins the sum in another order than a local one's: equal to 1e-6, not in the last bit.
    apart = Store(str(tmp_path / "apart"))
    expected = train(RunContext(disturbed.recipe, apart), Ear()) if objectives == BY_GRADIENT else train_here(disturbed)
    for ours, theirs in zip(weights, expected, strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
