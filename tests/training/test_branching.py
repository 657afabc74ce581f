"""Students that branch off from a trunk: what goes on, what begins afresh, and that both can be cut short anywhere."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.training.state import Tensors
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

from .cases import DM, OPTIONS, REAL, SPEC, Spy, assert_same, original, pairs_of, parts

ALL = Owned(Classes.numbered(4), torch.arange(4))
MINE = Owned(Classes.numbered(4), torch.tensor([1, 3]))
IMAGES = 24
EACH = pytest.mark.parametrize(
    ("what", "part"),
    [
        ("optimizers", "generator_optimizer"),
        ("average", "ema"),
        ("fake_score", "fake"),
        ("discriminator", "head.adm"),
    ],
)
"""What can begin afresh, and the part of a checkpoint that changes by it."""


def specs(objective: str = "dm", **own: Any) -> tuple[StudentSpec, StudentSpec]:
    """Of a trunk, and of a student that branches off from it."""
    stage = replace(DM, objective=objective, images=IMAGES, warmup=0, options=OPTIONS.get(objective, {}))
    stages = {"together": replace(stage, shared=True), "own": replace(stage, **own)}
    trunk = replace(SPEC, index=7, stages={"together": stages["together"]})
    return trunk, replace(SPEC, index=1, stages=stages, begins=IMAGES)


def made(spec: StudentSpec, owned: Owned, fake: Tensors | None = None) -> StudentTrainer:
    every = in_memory(torch.arange(32.0).reshape(16, 2) / 32, torch.arange(16) % 4)
    extras = Extras(fake=fake, encoder=original(spec), pairs=pairs_of(spec))
    return StudentTrainer(spec, owned, Spy(), real=every if owned is ALL else REAL, extras=extras)


def grown(spec: StudentSpec) -> StudentTrainer:
    trunk = made(spec, ALL)
    trunk.advance(IMAGES)
    return trunk


def branch(trunk: StudentTrainer, spec: StudentSpec, fake: Tensors | None = None) -> StudentTrainer:
    """At its beginning: it has entered its own stage, and trained on nothing."""
    student = made(spec, MINE, fake)
    student.load_state_dict(copy.deepcopy(trunk.state_dict()))
    student._networks.leave()
    student._networks.enter("own")
    return student


@pytest.mark.parametrize("objective", ["dm", "adm", "f-distill", "consistency", "gdd"])
def test_everything_goes_on_where_nothing_else_is_said(objective: str) -> None:
    trunk_spec, spec = specs(objective)
    trunk = grown(trunk_spec)
    assert_same(trunk, branch(trunk, spec))


@EACH
def test_each_can_begin_afresh_alone(what: str, part: str) -> None:
    trunk_spec, spec = specs("adm", afresh=(what,))
    trunk, start = grown(trunk_spec), original(trunk_spec).state_dict()
    before, after = parts(trunk), parts(branch(trunk, spec, fake=start))
    changed = {name for name in before if not equal(before[name], after.get(name, {}))}
    assert changed - {"fake_optimizer"} == {part} if what != "discriminator" else part in changed
    if what == "average":
        assert equal(after["ema"], before["generator"])
    if what == "fake_score":
        assert equal(after["fake"], start)
    if what == "optimizers":
        assert not after["generator_optimizer"] and not after["fake_optimizer"]


def equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_branch_learns_its_own_conditions_alone() -> None:
    trunk_spec, spec = specs()
    student, spy = made(spec, MINE), Spy()
    student.load_state_dict(copy.deepcopy(grown(trunk_spec).state_dict()))
    student.teacher = spy
    student.advance(IMAGES)
    assert student.done and student.nimg == 2 * IMAGES
    assert set(torch.cat(spy.conditions).tolist()) == {1, 3}


@pytest.mark.parametrize("afresh", ["auto", ("fake_score", "optimizers"), ("average", "discriminator")])
def test_a_branch_cut_short_anywhere_ends_the_same(afresh: Any) -> None:
    trunk_spec, spec = specs("adm", afresh=afresh)
    trunk, start = grown(trunk_spec), original(trunk_spec).state_dict()
    whole = made(spec, MINE, start)
    whole.load_state_dict(copy.deepcopy(trunk.state_dict()))
    whole.advance(IMAGES)
    for cut in (8, 16):
        first = made(spec, MINE, start)
        first.load_state_dict(copy.deepcopy(trunk.state_dict()))
        first.advance(cut)
        again = made(spec, MINE, start)
        again.load_state_dict(copy.deepcopy(first.state_dict()))
        again.advance(IMAGES)
        assert_same(whole, again)


def test_a_branch_may_have_another_batch_other_rates_and_other_fake_steps() -> None:
    trunk_spec, spec = specs("adm", batch=4, generator_lr=3e-4, fake_lr=1e-4, fake_steps=3)
    trunk = grown(trunk_spec)
    assert_same(trunk, branch(trunk, spec))
    student = made(spec, MINE)
    student.load_state_dict(copy.deepcopy(trunk.state_dict()))
    student.advance(4)
    assert (student.nimg, student._networks.generator_descent.optimizer.lr) == (IMAGES + 4, 3e-4)


@pytest.mark.parametrize(("warmup", "share"), [(0, 1.0), (2 * IMAGES, 8 / (2 * IMAGES))])
def test_the_rates_rise_again_at_a_branch_that_has_a_warmup(warmup: int, share: float) -> None:
    trunk_spec, spec = specs(warmup=warmup)
    student = made(spec, MINE)
    student.load_state_dict(copy.deepcopy(grown(trunk_spec).state_dict()))
    student.advance(8)
    assert student.nimg == IMAGES + 8
    assert student._networks.generator_descent.optimizer.lr == pytest.approx(share * spec.stages["own"].generator_lr)


def test_two_branches_of_one_trunk_part() -> None:
    trunk_spec, spec = specs()
    trunk = grown(trunk_spec)
    ends = []
    for index in (0, 1):
        student = made(replace(spec, index=index), MINE)
        student.load_state_dict(copy.deepcopy(trunk.state_dict()))
        student.advance(IMAGES)
        ends.append(parts(student)["generator"])
    assert not equal(*ends)


def successor(trunk: StudentTrainer, objective: str = "adm", **own: Any) -> StudentTrainer:
    """A student that goes on from what the trunk has, as another run's student."""
    trunk_spec = trunk.spec
    stage = replace(
        trunk_spec.stages["together"], shared=False, objective=objective, options=OPTIONS.get(objective, {})
    )
    spec = replace(trunk_spec, index=1, stages={"own": replace(stage, **{"afresh": (), **own})})
    student = made(spec, MINE, original(spec).state_dict())
    student.go_on_from(trunk_spec.stages["together"], copy.deepcopy(trunk.state_dict()))
    return student


def test_a_student_goes_on_from_another_run_with_all_that_a_branch_has() -> None:
    trunk = grown(specs("adm")[0])
    student = successor(trunk, batch=4, generator_lr=1e-4, fake_steps=3)
    assert_same(trunk, student)
    assert (student.nimg, student.stage, trunk.nimg) == (0, "own", IMAGES)
    student.advance(IMAGES)
    assert student.done and student.nimg == IMAGES


@EACH
def test_of_another_run_each_can_begin_afresh(what: str, part: str) -> None:
    trunk = grown(specs("adm")[0])
    before, after = parts(trunk), parts(successor(trunk, afresh=(what,)))
    changed = {name for name in before if not equal(before[name], after.get(name, {}))}
    assert part in changed and "generator" not in changed
    assert changed <= {part, "fake_optimizer"}


def test_of_another_runs_method_the_optimizers_of_the_same_weights_go_on() -> None:
    """A method without a discriminator trains the same generator, but not the same list beside it."""
    trunk = grown(specs("adm")[0])
    after = parts(successor(trunk, "dm"))
    assert equal(after["generator_optimizer"], parts(trunk)["generator_optimizer"])
    assert equal(after["fake"], parts(trunk)["fake"]) and not after["fake_optimizer"]
    assert successor(trunk, "consistency").stage == "own"


def test_the_average_of_another_run_is_not_forgotten_at_once() -> None:
    """Its half-life counts the images of both."""
    trunk = grown(specs("adm")[0])
    kept, anew = successor(trunk), successor(trunk, afresh=("average",))
    for student in (kept, anew):
        student.advance(8)
    assert equal(parts(kept)["generator"], parts(anew)["generator"])
    assert not equal(parts(kept)["ema"], parts(anew)["ema"])


def test_a_student_from_another_run_cut_short_ends_the_same() -> None:
    trunk = grown(specs("adm")[0])
    whole, first = successor(trunk), successor(trunk)
    whole.advance(IMAGES)
    first.advance(8)
    again = made(first.spec, MINE, original(first.spec).state_dict())
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    again.advance(IMAGES)
    assert_same(whole, again)
