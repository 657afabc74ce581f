"""A teacher in a file of another format answers from the shared pool: students end with the weights that they have with
that teacher in their own process, to the last bit."""

from pathlib import Path

import pytest
import torch

from msd_ray.cluster.students import RunInputs, StudentTask
from msd_ray.ensemble import read_description, read_member
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import teacher_in
from msd_ray.storage import Store
from msd_ray.training.state import Tensors

from ..teachers.test_recipe import context, folder
from .conftest import Ear

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
__all__ = ["folder"]  # a fixture
SMALL = ["evaluation.features=identity", "training.checkpoint_every=16", "cluster.cpus_per_student=0.25"]


def test_students_of_the_pool_are_those_of_a_local_teacher(folder: Path) -> None:
    from msd_ray.cluster.train import train

    run, ear = context(folder, *SMALL, "cluster.teacher=pool", "cluster.pool.cpus=0.25"), Ear()
    assert run.plan.source and run.plan.cluster.teacher == "pool"
    train(run.plan, run.store, run.cache, None, ear)
    known = read_description(run.store.child("ensemble"))
    assert len(run.plan.students) == known.partition.k == 2
    for i in range(2):
        pooled, local = read_member(known, i).read(), trained_here(run, i)
        assert pooled.keys() == local.keys()
        assert all(torch.equal(pooled[name], weight) for name, weight in local.items())
        untrained = run.plan.source.weights() or {}
        assert any(not torch.equal(pooled[name], untrained[name]) for name in pooled)


def trained_here(run: RunContext, number: int) -> Tensors:
    """The averaged weights of a student in this process, with the teacher beside it."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    recipe, student = run.recipe, run.plan.students[number]
    teacher, none, elsewhere = teacher_in(run.store, run.plan), 0.0, Store(f"{run.store.uri}-apart")
    inputs = RunInputs(recipe.data, recipe.conditions, recipe.evaluation, run.cache, teacher, None, none)
    task = StudentTask(student.spec, run.store, student.parts, elsewhere.child(str(number)), inputs)
    trainer = task.open().trainer
    trainer.advance(student.spec.images)
    return trainer.state_dict().tensors["ema"]
