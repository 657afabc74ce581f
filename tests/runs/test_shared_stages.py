"""What a recipe with shared stages amounts to: which trunks there are, what branches off from them, what it costs."""

import pytest

from msd_ray.errors import UserError
from msd_ray.runs.plan import EnsemblePlan, Plan, most_at_a_time, most_beside
from msd_ray.runs.plan_description import describe
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store
from msd_ray.training.config import StageConfig

from .test_plan import TINY


def stage(images: int, more: str = "") -> str:
    return f"{{objective: dm, images: {images}, batch: 16{more}}}"


def plan(stages: str, *overrides: str) -> Plan:
    return RunContext.of(TINY, ["partition.kind=sequential", f"stages={{{stages}}}", *overrides], None).plan


SHARED = f"trunk: {stage(320, ', shared: true')}, own: {stage(160)}"
TREE = f"all: {stage(320, ', shared: true')}, halves: {stage(160, ', shared: 2')}, own: {stage(80)}"


def ids(made: Plan, ensemble: EnsemblePlan) -> list[list[int]]:
    of = ensemble.partition.owned_by_parts
    return [of(s.parts, made.conditions).ids.tolist() for s in (*ensemble.trunks, *ensemble.students)]


def test_one_student_trains_the_shared_stages_for_all() -> None:
    made = plan(SHARED)
    ensemble = made.ensembles[0]
    (trunk,) = ensemble.trunks
    assert (trunk.name, trunk.directory, trunk.spec.index, trunk.trunk) == ("trunk", "trunks/0000", 0, None)
    assert list(trunk.spec.stages) == ["trunk"] and trunk.spec.own_images == trunk.spec.images == 320
    assert ids(made, ensemble) == [[0, 1, 2, 3], [0, 1], [2, 3]]
    for student in ensemble.students:
        assert student.trunk == trunk
        assert (student.spec.begins, student.spec.images, student.spec.own_images) == (320, 480, 160)
        assert student.spec.stage_at(320) == ("own", 320)
    assert ensemble.images == 320 + 2 * 160
    assert [s.name for s in made.students] == ["trunk", "student 0", "student 1"]


def test_a_tree_of_groups() -> None:
    made = plan(TREE, "partition.k=4")
    ensemble = made.ensembles[0]
    assert [t.name for t in ensemble.trunks] == ["trunk", "trunk of parts 0 to 1", "trunk of parts 2 to 3"]
    assert ids(made, ensemble) == [[0, 1, 2, 3], [0, 1], [2, 3], [0], [1], [2], [3]]
    root, *halves = ensemble.trunks
    assert [half.trunk for half in halves] == [root, root]
    assert [s.trunk for s in ensemble.students] == [halves[0], halves[0], halves[1], halves[1]]
    assert [(t.spec.index, t.directory) for t in ensemble.trunks] == [
        (0, "trunks/0000"),
        (0, "trunks/0001"),
        (1, "trunks/0002"),
    ]
    assert ensemble.images == 320 + 2 * 160 + 4 * 80


def test_a_plan_says_what_branches_off_from_what_and_what_each_trains_itself() -> None:
    rows = describe(plan(SHARED))["students"]
    told = [(row["student"], row["branches off from"], row["images"], row["of its own"]) for row in rows]
    assert told == [
        ("trunk", "", "320", "320"),
        ("student 0", "trunk", "480", "160"),
        ("student 1", "trunk", "480", "160"),
    ]
    assert list(describe(plan(f"own: {stage(160)}"))["students"][0]) == ["student", "owns", "parameters", "images"]


def test_how_many_students_train_at_the_same_time() -> None:
    students = plan(TREE, "partition.k=4").students
    root, half, other, *own = students
    assert most_at_a_time(students) == 4
    assert [most_beside(s, students) for s in (root, half, other, *own)] == [1, 3, 3, 4, 4, 4, 4]
    with_baselines = plan(SHARED, "evaluation.baselines=true").students
    assert most_beside(with_baselines[0], with_baselines) == 3  # the baselines wait for nobody


def test_several_shared_stages_are_one_trunk() -> None:
    made = plan(f"first: {stage(160, ', shared: true')}, second: {stage(160, ', shared: true')}, own: {stage(80)}")
    assert [list(t.spec.stages) for t in made.ensembles[0].trunks] == [["first", "second"]]


def test_the_baseline_of_the_same_images_counts_the_trunk_once() -> None:
    made = plan(SHARED, "evaluation.baselines=true")
    ensemble, each, total = made.ensembles
    assert not each.trunks and not total.trunks
    assert each.images == 480 and total.images == ensemble.images == 640


def test_shared_images_count_the_trunk_once() -> None:
    ensemble = plan(SHARED, "training.share_images=true").ensembles[0]
    assert ensemble.trunks[0].spec.images == 320
    assert ensemble.students[0].spec.own_images == 80
    assert ensemble.images == 320 + 160


def test_what_begins_afresh_at_a_branch() -> None:
    spec = plan(SHARED).first
    assert spec.begins_afresh("own") == ()
    assert plan(f"a: {stage(160)}, b: {stage(160)}").first.begins_afresh("b") == ("optimizers",)
    other = plan(f"a: {stage(160, ', shared: true')}, b: {{objective: adm, images: 160, batch: 16}}").first
    assert other.begins_afresh("b") == ("optimizers",)
    said = plan(SHARED, "stages.own.afresh=[average, fake_score]").first
    assert said.begins_afresh("own") == ("average", "fake_score")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (f"a: {stage(160)}, b: {stage(160, ', shared: true')}, c: {stage(160)}", "stages.b.shared: shared stages come"),
        (
            f"a: {stage(160, ', shared: 2')}, b: {stage(160, ', shared: true')}, c: {stage(160)}",
            "those of fewer groups",
        ),
        (f"a: {stage(160, ', shared: true')}", "stages.a.shared: the last stage is each student's own"),
        (f"a: {stage(160, ', shared: 3')}, b: {stage(160)}", "stages.a.shared: there are only 2 parts"),
    ],
)
def test_trees_that_cannot_be_are_refused(stages: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        plan(stages)
    assert "\n" not in str(refused.value)


def test_students_of_different_sizes_share_no_stage() -> None:
    with pytest.raises(UserError, match="students of different sizes cannot share a stage"):
        plan(SHARED, "students={0: {channel_factor: 0.5}}")


def tsm(images: int, more: str = "") -> str:
    return stage(images, more).replace("dm", "tsm")


@pytest.mark.parametrize(
    ("stages", "overrides", "shared"),
    [
        (f"a: {tsm(320)}, b: {stage(160)}", [], [True, False]),
        (f"a: {tsm(320)}, b: {tsm(160)}, c: {stage(160)}", [], [True, True, False]),
        (f"a: {tsm(320, ', shared: false')}, b: {tsm(160)}, c: {stage(160)}", [], [False] * 3),
        (
            f"a: {stage(320)}, b: {tsm(160)}, c: {stage(160)}",
            [],
            [False] * 3,
        ),  # it follows a stage of each student's own
        (f"a: {tsm(320)}, b: {stage(160)}", ["partition.k=1"], [False, False]),  # nobody to share with
        (f"a: {tsm(320)}, b: {stage(160)}", ["students={0: {channel_factor: 0.5}}"], [False, False]),
        (f"a: {tsm(320)}, b: {stage(160).replace('dm', 'o2mkd')}", ["partition.timesteps=2"], [False, False]),
        (f"a: {stage(320).replace('dm', 'o2mkd')}, b: {stage(160)}", [], [True, False]),
        (f"a: {stage(320).replace('dm', 'o2mkd')}", [], [False]),  # what makes the students differ
        (f"a: {tsm(320, ', shared: 2')}, b: {stage(160)}", ["partition.k=4"], [2, False]),
    ],
)
def test_stages_that_make_a_denoiser_for_the_students_to_start_from_are_shared_unless_said_otherwise(
    stages: str, overrides: list[str], shared: list[bool | int]
) -> None:
    made = plan(stages, *overrides)
    assert [s.shared for s in made.recipe.stages.values()] == shared
    assert bool(made.ensembles[0].trunks) == any(shared)


@pytest.mark.parametrize("shared", ["1", "yes please", "-1"])
def test_shared_is_true_or_a_number_of_groups(shared: str) -> None:
    with pytest.raises(UserError, match="shared"):
        plan(SHARED, f"stages.trunk.shared={shared}")


def test_groups() -> None:
    assert [StageConfig(shared=s).groups for s in (False, True, 2)] == [0, 1, 2]


def test_a_run_keeps_a_recipe_with_shared_stages(tmp_path: object) -> None:
    from msd_ray.runs.run_directory import keep_recipe, recipe_of

    recipe, store = plan(SHARED).recipe, Store(str(tmp_path))
    keep_recipe(store, recipe)
    assert recipe_of(store) == recipe
