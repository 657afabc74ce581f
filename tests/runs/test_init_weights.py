"""Where students start: at the teacher's weights, or at those of another run's students."""

import json
from pathlib import Path

import pytest
import torch

from msd_ray.diffusion import Noise
from msd_ray.ensemble import Member, save_ensemble
from msd_ray.errors import UserError
from msd_ray.runs.init_weights import check_init, starting_weights, what_init_lacks
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import keep_teacher, load_teacher
from msd_ray.storage import Store
from msd_ray.teachers.kept_teacher import KeptTeacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State, Tensors, tensors_of

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")


def equal(a: Tensors | None, b: Tensors | None) -> bool:
    assert a is not None
    assert b is not None
    return all(torch.equal(a[name], b[name]) for name in a)


def start(plan: Plan, teacher: KeptTeacher, student: int = 0, init: str = "") -> tuple[Tensors | None, Tensors | None]:
    owned = plan.ensembles[0].partition.owned_by(student, plan.conditions)
    return starting_weights(plan.students[student].spec, owned, teacher, init)


@pytest.fixture
def teacher(tmp_path: Path) -> tuple[KeptTeacher, Tensors]:
    plan, store = RunContext.of(TINY, [], None).plan, Store(str(tmp_path / "teacher"))
    weights = tensors_of(plan.teacher.build())
    keep_teacher(store, plan.teacher, State({"ema": weights}, {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}))
    return KeptTeacher(store), weights


@pytest.fixture
def ensemble(tmp_path: Path) -> tuple[str, list[Tensors]]:
    """Of two students with random weights, which own conditions 0, 1 and 2, 3."""
    plan = RunContext.of(TINY, ["partition.kind=sequential"], None).plan
    members = [
        Member(i, student.spec.denoiser, Noise().sigma_init, 0, tensors_of(student.spec.denoiser.build()))
        for i, student in enumerate(plan.students)
    ]
    save_ensemble(Store(str(tmp_path / "e")), plan.recipe.to_json(), plan.ensembles[0].partition, plan.labels, members)
    return str(tmp_path / "e"), [dict(m.weights) for m in members]


def test_a_student_of_the_teachers_shape_starts_as_the_teacher(teacher: tuple[KeptTeacher, Tensors]) -> None:
    store, weights = teacher
    generator, fake = start(RunContext.of(TINY, [], None).plan, store)
    assert equal(generator, weights)
    assert equal(fake, weights)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_in_memory_that_is_rounded_rounds_no_student(
    precision: str, teacher: tuple[KeptTeacher, Tensors]
) -> None:
    plan, (store, weights) = RunContext.of(TINY, [f"training.precision={precision}"], None).plan, teacher
    loaded = load_teacher(store, "cpu", plan.recipe.training)
    owned = plan.ensembles[0].partition.owned_by(0, plan.conditions)
    for started in starting_weights(plan.students[0].spec, owned, store, "", loaded):
        assert equal(started, weights)


def test_a_smaller_student_starts_fresh(teacher: tuple[KeptTeacher, Tensors]) -> None:
    smaller = RunContext.of(TINY, ["student.channel_factor=0.5"], None).plan
    assert start(smaller, teacher[0]) == (None, None)


def test_a_generator_that_is_the_identity_at_sigma_min_starts_as_the_teacher_too(
    teacher: tuple[KeptTeacher, Tensors],
) -> None:
    plan = RunContext.of(TINY, ["stages={c: {objective: consistency, images: 160, batch: 16}}"], None).plan
    assert plan.student.sigma_min == plan.recipe.noise.sigma_min
    assert equal(start(plan, teacher[0])[0], teacher[1])


def test_init_gives_each_student_the_one_that_owns_most_of_its_conditions(
    teacher: tuple[KeptTeacher, Tensors], ensemble: tuple[str, list[Tensors]]
) -> None:
    uri, members = ensemble
    one = RunContext.of(TINY, ["partition.k=1", f"init={uri}"], None).plan
    four = RunContext.of(TINY, ["partition.k=4", f"init={uri}"], None).plan
    check_init(one)
    check_init(four)
    starts = [start(plan, teacher[0], i, uri) for plan in (one, four) for i in range(plan.ensembles[0].partition.k)]
    for (generator, fake), owner in zip(starts, [0, 0, 0, 1, 1], strict=True):
        assert equal(generator, members[owner])
        assert equal(fake, teacher[1])


def test_an_init_that_does_not_fit_is_refused_in_one_line(ensemble: tuple[str, list[Tensors]], tmp_path: Path) -> None:
    for override, message in [
        ("student.channel_factor=0.5", "another shape"),
        ("data.classes=5", "other conditions"),
        (f"init={tmp_path}/nowhere", "no ensemble at"),
    ]:
        plan = RunContext.of(TINY, [f"init={ensemble[0]}", override], None).plan
        with pytest.raises(UserError, match=message) as refused:
            check_init(plan)
        assert "\n" not in str(refused.value)


def test_a_run_without_checkpoints_is_told_in_one_line_where_more_was_asked_for(
    ensemble: tuple[str, list[Tensors]],
) -> None:
    stages = "stages={{dm: {{objective: dm, images: 160, batch: 16{}}}}}"
    asked = RunContext.of(TINY, [f"init={ensemble[0]}", stages.format(", afresh: []")], None).plan
    assert what_init_lacks(asked) == (
        f"init: {ensemble[0]} has an ensemble but no checkpoints of all its students: only their averaged weights go on"
    )
    assert not what_init_lacks(RunContext.of(TINY, [f"init={ensemble[0]}"], None).plan)
    assert not what_init_lacks(RunContext.of(TINY, [stages.format(", afresh: []")], None).plan)


def test_the_method_of_another_run_is_not_imported_because_its_directory_says_so(tmp_path: Path) -> None:
    run, made = Store(str(tmp_path)), RunContext.of(TINY, [], None).plan
    raw = made.recipe.to_json()
    raw["stages"]["dm"]["objective"] = "somebody:Elses"
    run.write("recipe.json", json.dumps(raw).encode())
    members = [
        Member(s.spec.index, s.spec.denoiser, 80.0, 0, tensors_of(s.spec.denoiser.build())) for s in made.students
    ]
    save_ensemble(run.child("ensemble"), raw, made.ensembles[0].partition, made.labels, members)
    state = State({"ema": {}}, {"nimg": 16, "stage": "dm"})
    for number in ("0000", "0001"):
        Checkpoints(run.child("students").child(number), 1).save(state)
    stage = "stages={dm: {objective: dm, images: 160, batch: 16, afresh: []}}"
    with pytest.raises(UserError, match="code that may be somebody else's") as refused:
        what_init_lacks(RunContext.of(TINY, [f"init={run.uri}", stage], None).plan)
    assert "\n" not in str(refused.value)
