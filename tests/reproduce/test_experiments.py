"""The experiments are valid, and their verdicts follow from the figures."""

import math
from pathlib import Path

import pytest

from msd_ray.evaluation import Row, Scores, to_records
from msd_ray.objectives import OBJECTIVES, SUM
from msd_ray.reproduce.experiment import Arm, Claim, Experiment, Summary, below, every, falls, summary
from msd_ray.reproduce.experiment_page import grid, page, plot
from msd_ray.reproduce.experiments import EXPERIMENTS
from msd_ray.reproduce.reproduce import Finding, flat, slug
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.shared_trunks import branch_points

from ..recipes.stand_ins import as_arguments, stand_ins

FOUND = {
    name: {"fid": summary(values), "n": summary([64, 64])}
    for name, values in {"teacher": [1.0, 1.0], "a": [3.0, 5.0], "b": [2.0, 2.0], "c": [4.5, 4.5]}.items()
}


def plan_of(arm: Arm, folder: Path) -> Plan:
    """With images of the test's own where the recipe needs files."""
    return RunContext.of(arm.recipe, [*arm.overrides, *as_arguments(stand_ins(arm.recipe, folder))], None).plan


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_arm_is_a_valid_recipe_with_a_run_of_its_own(name: str, tmp_path: Path) -> None:
    arms = EXPERIMENTS[name].arms
    plans = [plan_of(arm, tmp_path) for arm in arms]
    assert len({str(plan.recipe.to_json()) for plan in plans}) == len(arms)
    assert len({slug(arm.name) for arm in arms}) == len(arms)


def test_arms_of_an_ablation_differ_in_what_they_say() -> None:
    plans = {a.name: RunContext.of(a.recipe, list(a.overrides), None).plan for a in EXPERIMENTS["ablation-k"].arms}
    assert [plans[f"same images each, K = {k}"].ensembles[0].images for k in (1, 2, 5, 10)] == [
        5_760 * k for k in (1, 2, 5, 10)
    ]
    totals = [plans[f"same total images, K = {k}"].ensembles[0].images for k in (1, 2, 10)]
    assert totals == pytest.approx([28_800] * 3, rel=0.01)


def test_small_students_differ_in_tsm_and_size_alone() -> None:
    plans = {a.name: RunContext.of(a.recipe, list(a.overrides), None).plan for a in EXPERIMENTS["small-students"].arms}
    for share, low, high in (("43%", 0.35, 0.45), ("74%", 0.65, 0.75)):
        with_tsm, without = (plans[f"{share} fewer parameters, {w} TSM"] for w in ("with", "without"))
        assert low < 1 - with_tsm.student.parameters() / with_tsm.teacher.parameters() < high
        assert with_tsm.student == without.student
        stages = dict(with_tsm.recipe.stages)
        assert stages.pop("tsm").objective == "tsm"
        assert stages == without.recipe.stages


def test_the_table_of_methods_has_every_method_for_conditions() -> None:
    arms = EXPERIMENTS["objectives"].arms
    used = {s.objective for a in arms for s in RunContext.of(a.recipe, list(a.overrides), None).recipe.stages.values()}
    of_super_resolution = {"dfosd", "flow-trajectory"}  # docs/methods.md has their table
    assert used == {*OBJECTIVES, SUM} - {"tsm", "o2mkd"} - of_super_resolution
    for arm in arms:
        images = 17_280 if arm.name.endswith("3 x images") else 5_760
        assert RunContext.of(arm.recipe, list(arm.overrides), None).plan.ensembles[0].students[0].spec.images == images


def test_students_of_a_few_steps_have_as_many_images() -> None:
    for arm in EXPERIMENTS["few-steps"].arms:
        plan = RunContext.of(arm.recipe, list(arm.overrides), None).plan
        assert (plan.sampling.nfe, plan.ensembles[0].images) == (arm.x, 2 * 5_760)


def test_experts_for_phases_have_as_many_images_and_steps_as_one_student() -> None:
    plans = [RunContext.of(arm.recipe, list(arm.overrides), None).plan for arm in EXPERIMENTS["phases"].arms]
    assert [plan.ensembles[0].partition.k for plan in plans] == [2, 4, 8]
    assert {(plan.sampling.nfe, plan.ensembles[0].images) for plan in plans} == {(4, 23_040)}


@pytest.mark.parametrize(
    ("name", "total"),
    [("shared-trunk", 28_800), ("shared-trunk-long", 86_400), ("fashion", 25_600), ("fashion-small", 25_600)],
)
def test_branches_have_one_trunk_of_each_width_and_as_many_images_as_one_student(
    name: str, total: int, tmp_path: Path
) -> None:
    plans = {arm.name: plan_of(arm, tmp_path) for arm in EXPERIMENTS[name].arms}
    lines = branch_points(plans.values())
    assert len(lines) == len({arm.split(",")[0] for arm in plans})
    for arm, plan in plans.items():
        ensemble, tsm = plan.ensembles[0], {"full": 0, "half": 51_200}.get(arm.split()[0], 64_000)
        if "as long as" in arm:
            branches = plans[f"{arm.split(',')[0]}, {arm.split('as long as ')[1]}"]
            assert ensemble.images == branches.first.images and len(ensemble.students) == 1
        else:
            assert ensemble.images - tsm == pytest.approx(total, rel=0.002)


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        (falls("fid", ["a", "b"]), True),
        (falls("fid", ["b", "a"]), False),
        (below("fid", "b", "a"), True),
        (below("fid", "a", "b"), False),
        (below("fid", "a", "b", 2.1), True),
        (every("fid", ["a", "b"], "teacher", 4.0), True),
        (every("fid", ["a", "c"], "teacher", 4.0), False),
    ],
)
def test_verdicts_compare_means(check: object, holds: bool) -> None:
    verdict, figures = check(FOUND)  # type: ignore[operator]
    assert verdict is holds
    assert "fid" in figures


def test_a_claim_about_figures_that_are_missing_does_not_hold() -> None:
    found = {**FOUND, "b": {"fid": summary([None])}}
    assert not below("fid", "b", "a")(found)[0]
    assert not every("fid", ["b"], "teacher", 4.0)(found)[0]
    assert not falls("fid", ["a", "b"])(found)[0]


def test_summaries_are_mean_and_spread_of_what_is_known() -> None:
    s = summary([1.0, None, 3.0, math.nan])
    assert (s.mean, s.sd) == (2.0, pytest.approx(2**0.5))
    assert str(s) == "2 ± 1.4"
    assert str(Summary((2.5,))) == "2.5"
    assert str(Summary(())) == "-"


@pytest.mark.parametrize("x", ["", "students"])
def test_the_page_holds_table_claims_and_the_command(x: str) -> None:
    claim = Claim("b is better than a (a paper)", below("fid", "b", "a"))
    arms = tuple(Arm(name, "digits", x=i) for i, name in enumerate("abc"))
    experiment = Experiment("mine", "Mine", arms, (claim,), ("fid",), x)
    findings = [Finding(claim.text, *claim.holds(FOUND))]
    text = page(experiment, [0, 1], FOUND, findings)
    assert "msd-ray reproduce mine --seeds 0 --seeds 1" in text
    assert "| a | 4 ± 1.4 |" in text
    assert "**Holds**: b is better than a (a paper). Ours: fid: 2 (b) against 4 (a)." in text
    assert grid(experiment, FOUND)[0] == ["", "fid@64"]
    assert plot(experiment, FOUND).startswith(b"<?xml")


def test_columns_may_be_of_further_features() -> None:
    record = to_records(
        [Row("a", Scores(64, 1.0, 0.1, 0.5, 0.5), also=(Scores(64, 7.0, 0.1, 0.5, 0.5, features="net"),))]
    )
    values = flat(record[0])
    assert values["fid"] == 1.0 and values["net/fid"] == 7.0
    found = {name: {"net/fid": summary([values["net/fid"]]), "n": summary([64])} for name in ("teacher", "a")}
    experiment = Experiment("mine", "Mine", (Arm("a", "digits"),), (), ("net/fid",))
    assert grid(experiment, found) == (["", "net/fid@64"], [["teacher", "7"], ["a", "7"]])
