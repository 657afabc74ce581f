"""A partition that is learned after the trunk: which recipes can, and what is known of it before and after."""

import json
from pathlib import Path

import pytest

from msd_ray.conditions import Partition, Table
from msd_ray.errors import UserError
from msd_ray.runs.plan_description import describe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import write_partition
from msd_ray.storage import Store

from .test_plan import TINY
from .test_shared_stages import SHARED, stage


def context(stages: str, *overrides: str, run_dir: Path | None = None) -> RunContext:
    said = ["partition.kind=learned", f"stages={{{stages}}}", *overrides]
    return RunContext.of(TINY, said, str(run_dir) if run_dir else None)


@pytest.mark.parametrize(
    ("stages", "override", "message"),
    [
        (f"own: {stage(160)}", "seed=0", "divides the classes after a trunk: write shared: true"),
        (
            f"a: {stage(160, ', shared: true')}, b: {stage(160, ', shared: 2')}, c: {stage(160)}",
            "seed=0",
            "stages.b.shared: before the classes are divided",
        ),
        (
            f"a: {{objective: dmd, images: 160, batch: 16, shared: true}}, b: {stage(160)}",
            "pairs=64",
            r"that of dmd \(stages.a\) depends on others",
        ),
        (
            f"a: {{objective: fd, images: 160, batch: 16, shared: true}}, b: {stage(160)}",
            "evaluation.features=digits",
            r"that of fd \(stages.a\) depends on others",
        ),
        (SHARED, "cluster={workers_per_student: [1, 2]}", "one process per student"),
    ],
)
def test_recipes_that_cannot_learn_it_are_refused(stages: str, override: str, message: str) -> None:
    more = ["training.shards=2"] if "workers" in override else []
    with pytest.raises(UserError, match=message) as told:
        context(stages, *more, override).plan  # noqa: B018
    assert "\n" not in str(told.value)


def test_a_plan_says_that_the_classes_are_still_to_be_divided() -> None:
    rows = describe(context(SHARED, "evaluation.baselines=true").plan)["students"]
    everything, later = "classes ring 0, ring 1, ring 2, ring 3", "2 classes, chosen after the trunk"
    assert [row["owns"] for row in rows] == [everything, later, later, everything, everything]


def test_a_run_that_has_learned_it_plans_with_it(tmp_path: Path) -> None:
    of, found = context(SHARED, run_dir=tmp_path), Partition("learned", Table((0, 1, 0, 1)))
    assert of.plan.ensembles[0].partition.router.owners == (0, 0, 1, 1)
    write_partition(Store(str(tmp_path)), found)
    plan = of.plan
    assert plan.ensembles[0].partition == found == context(SHARED, run_dir=tmp_path).plan.ensembles[0].partition
    assert [row["owns"] for row in describe(plan)["students"]][1:] == [
        "classes ring 0, ring 2",
        "classes ring 1, ring 3",
    ]
    assert json.loads((tmp_path / "partition.json").read_text()) == {"kind": "learned", "owners": [0, 1, 0, 1]}
