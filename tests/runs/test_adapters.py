"""Runs whose students are adapters: what recipes may ask for, and a run from trunk to ensemble. No Ray."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msd_ray.cluster.students import RunInputs, student_task
from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.networks.weights import StoredWeights
from msd_ray.runs.adapter_base import base_of
from msd_ray.runs.disk_needs import checkpoint_weights, disk_needed
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import assemble, checkpoints_of, folder, keep_partition, keep_recipe
from msd_ray.runs.teacher_cache import keep_teacher, teacher_in
from msd_ray.storage import Store
from msd_ray.training.state import State

from .finished import TINY, weights

TSM = "tsm: {objective: tsm, images: 32, batch: 16, generator_lr: 1e-2}"
DM = "dm: {objective: dm, images: 32, batch: 16, generator_lr: 1e-2}"
SHORT = [f"stages={{{DM}}}"]
TRUNK = [f"stages={{{TSM}, {DM}}}"]
ADAPTER = "student.adapter={rank: 1}"


def plan(*overrides: str) -> Plan:
    return RunContext.of(TINY, list(overrides), None).plan


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["student.channel_factor=0.5"], "student.adapter: adapters change no sizes; leave channel_factor"),
        (["students={1: {blocks: 3, adapter: {rank: 1}}}"], "students.1.adapter: adapters change no sizes"),
        (
            ["student.adapter.rank=64"],
            "adapters of rank 64 have .* parameters, all weights of a student .*; take",
        ),
        ([TRUNK[0].replace("batch: 16", "batch: 16, shared: 2", 1)], "students of 2 trunks share no weights"),
        (["init=/tmp/other"], "adapters begin at the teacher or at a shared stage; leave `init` out"),
        (["student.adapter.kind=dora"], "student.adapter.kind"),
        (["student.adapter.rank=0"], "student.adapter.rank"),
        (["student.fake_adapter=all"], "student.fake_adapter"),
        (["student.fake_adapter={rank: 64}"], "adapters of rank 64 have"),
        (
            [TRUNK[0], "student.fake_adapter={rank: 2}"],
            "student.fake_adapter: after the stage tsm the fake score begins",
        ),
    ],
)
def test_what_adapters_cannot_be_is_said_in_a_line(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        plan(*SHORT, ADAPTER, *overrides)
    assert "\n" not in str(told.value)


def test_students_have_adapters_and_trunks_and_baselines_all_their_weights() -> None:
    made = plan(*TRUNK, ADAPTER, "evaluation.baselines=true")
    ensemble, *baselines = made.ensembles
    assert [s.spec.adapter and s.spec.adapter.rank for s in ensemble.students] == [1, 1]
    others = [*ensemble.trunks, *(s for b in baselines for s in b.students)]
    assert len(others) == 3 and not any(s.spec.adapter for s in others)
    student = ensemble.students[0].spec
    assert checkpoint_weights(student) < checkpoint_weights(replace(student, adapter=None))
    assert disk_needed(plan(*TRUNK, ADAPTER)) < disk_needed(plan(*TRUNK))


def begun(where: Path, stages: list[str]) -> RunContext:
    """A run whose teacher is there."""
    context = RunContext.of(TINY, [*stages, ADAPTER, "cluster.teacher=local", "evaluation.baselines=false"], str(where))
    facts = {"nimg": 6400, "wall_seconds": 1.0, "cpu_seconds": 1.0}
    store, teacher = context.store, context.plan.teacher
    keep_recipe(store, context.plan.recipe)
    keep_teacher(store.child("teacher"), teacher, State({"ema": weights(teacher, 99)}, facts))
    keep_partition(store, context.plan.ensembles[0])
    return context


def train(context: RunContext, until: int | None = None, pieces: int = 1) -> None:
    """All students, each `pieces` times in a new process as it were."""
    recipe, plan, store = context.plan.recipe, context.plan, context.store
    inputs = RunInputs(
        recipe.data, recipe.conditions, recipe.evaluation, Store("unused"), teacher_in(store, plan), None, 0.0
    )
    for student in plan.students:
        for piece in range(pieces):
            training = student_task(store, student, inputs).open()
            training.measuring.due = lambda *_: False  # type: ignore[method-assign]
            training.advance(student.spec.own_images // pieces if piece + 1 < pieces else 10**6, [], lambda: False)
            training.rest()


@pytest.mark.parametrize("stages", [SHORT, TRUNK])
def test_a_run_from_its_base_to_its_ensemble(stages: list[str], tmp_path: Path) -> None:
    run, again = begun(tmp_path / "run", stages), begun(tmp_path / "again", stages)
    train(run)
    train(again, pieces=2)
    made = []
    for context in (run, again):
        ensemble = context.plan.ensembles[0]
        assemble(context.store, context.plan, ensemble)
        made.append(Ensemble.load(folder(context.store, ensemble.directory)))
    one, other = (e.generate(range(4), range(4)) for e in made)
    assert torch.equal(one, other)
    first = run.plan.ensembles[0].students[0]
    trunk = folder(run.store, first.trunk.directory) if first.trunk else None
    base = base_of(first.spec, trunk, teacher_in(run.store, run.plan))
    expected = base.read() if isinstance(base, StoredWeights) else base
    assert isinstance(base, StoredWeights) == bool(first.trunk)
    held = made[0].members[0].base
    assert held and all(torch.equal(value, expected[name]) for name, value in held.on("cpu").items())
    plain = checkpoints_of(run.store, first).newest()
    assert plain and all(".lora_" in name for name in plain.tensors("ema").read())
    assert any(value.any() for name, value in plain.tensors("ema").read().items() if "lora_B" in name)
