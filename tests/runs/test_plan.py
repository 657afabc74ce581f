"""What a recipe amounts to: students, what each learns from, and how the ensemble will be sampled. No Ray."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.diffusion import Noise
from msd_ray.ensemble import ONE_STEP, Sampling
from msd_ray.errors import UserError
from msd_ray.objectives import DM, Needs
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
SINGLE_FOLD = "stages={kd: {objective: sfddm, images: 160, batch: 16, options: {steps: 7}}}"
DENOISER = ["stages={kd: {objective: o2mkd, images: 160, batch: 16}}", "partition.kind=sequential"]


def plan(*overrides: str) -> Plan:
    return RunContext.of(TINY, list(overrides), None).plan


def stages(**objectives: str) -> str:
    each = ", ".join(f"{name}: {{objective: {o}, images: 160, batch: 16}}" for name, o in objectives.items())
    return f"stages={{{each}}}"


def sequential(*overrides: str) -> Plan:
    return plan("partition.kind=sequential", *overrides)


def owned(made: Plan) -> list[list[int]]:
    partition = made.ensembles[0].partition
    return [partition.owned_by(student.spec.index, made.conditions).ids.tolist() for student in made.students]


def test_one_step_students_know_all_noise_levels() -> None:
    made = sequential()
    assert made.sampling == ONE_STEP
    assert owned(made) == [[0, 1], [2, 3]]
    assert {student.spec.noise for student in made.students} == {Noise()}


def test_students_of_a_few_steps_are_sampled_as_they_are_trained() -> None:
    made = sequential("noise.steps=2")
    levels = made.first.noise.step_levels
    assert (made.sampling.kind, made.sampling.nfe, made.sampling.levels) == ("few_steps", 2, levels)
    assert sequential("noise.steps=[4.0, 0.5]").sampling.levels == (80.0, 4.0, 0.5)


def test_students_of_steps_of_ddim_are_sampled_as_they_are_trained() -> None:
    made = sequential(SINGLE_FOLD)
    assert (made.sampling.kind, made.sampling.nfe, made.sampling.noise) == ("ddim", 7, made.first.noise)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ([stages(dmd="dmd"), "noise.steps=2"], "dmd .stages.dmd. trains generators of a single step only"),
        ([*DENOISER, "noise.steps=2"], "o2mkd .stages.kd. makes students that are asked at every noise level"),
        ([SINGLE_FOLD, "noise.steps=2"], "leave it out, and set stages.kd.options.steps"),
        (["noise.steps=[90.0]"], "noise: steps: the levels must fall from sigma_init"),
        (["noise.steps=0"], "noise.steps"),
        (["training.anchors=random"], "^training.anchors: these students have no further steps; set noise.steps to at"),
        ([stages(dm="dm"), "noise.steps=20"], "16 samples in a shard cannot be divided among the 20 steps"),
    ],
)
def test_a_few_steps_that_cannot_be_are_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        sequential(*overrides)
    assert "\n" not in str(told.value)


def test_experts_divide_the_steps_of_each_part_of_the_conditions() -> None:
    made = sequential("noise.steps=4", "partition.timesteps=2", "evaluation.baselines=true")
    levels, partition = made.recipe.noise.step_levels, made.ensembles[0].partition
    specs = [student.spec for student in made.ensembles[0].students]
    assert (partition.k, made.sampling.levels, made.sampling.nfe) == (4, levels, 4)
    assert owned(made)[:4] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [(spec.phase, spec.phases) for spec in specs] == [(1, 2), (0, 2)] * 2
    assert [spec.noise.step_levels for spec in specs] == [levels[2:], levels[:2]] * 2
    (border,) = partition.borders
    ends = [(spec.noise.sigma_min, spec.noise.sigma_max) for spec in specs]
    assert ends == [(0.002, border), (border, 80.0)] * 2
    alone = made.ensembles[1].students[0].spec
    assert (alone.phases, alone.noise) == (1, made.recipe.noise)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["noise.steps=2", "partition.timesteps=3"], r"^partition.timesteps \(3\) above noise.steps \(2\)"),
        ([stages(s="sid"), "noise.steps=2", "partition.timesteps=2"], "sid .stages.s. trains no student for some"),
        (
            [stages(dm="dm"), "noise.steps=[8.0, 7.99]", "partition.timesteps=3", "noise.table={schedule: linear}",
             "noise.sigma_min=0.02"],
            "^partition.timesteps: too few noise levels for student 1: the table has fewer than two levels",
        ),
    ],
)  # fmt: skip
def test_experts_that_cannot_be_are_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        sequential(*overrides)
    assert "\n" not in str(told.value)


def test_progressive_distillation_ends_in_one_step() -> None:
    pd = "stages={pd: {objective: pd, images: 160, batch: 16, options: {steps: 2}}}"
    with pytest.raises(UserError, match=r"^stages.pd: pd ends in one step: let a stage of pd follow with"):
        sequential(pd)
    assert sequential(pd.replace("steps: 2", "steps: 1")).sampling == ONE_STEP


def test_no_loss_is_what_the_table_reports() -> None:
    fd = "stages={fd: {objective: fd, images: 160, batch: 16, options: {features: samples}}}"
    said = r"^stages.fd: fd minimises the Frechet distance in the features identity, in which the table reports it; "
    with pytest.raises(UserError, match=said):
        sequential(fd)
    sequential(fd.replace("samples", "teacher"))
    summed = fd.replace("objective: fd", "objective: sum").replace("{features", "{terms: {dm: {}, fd: {features")
    with pytest.raises(UserError, match=r"stages.fd: sum minimises"):
        sequential(summed.replace("}}}", "}}}}}"))


def test_students_of_a_grid_own_conditions_and_levels() -> None:
    made = plan(*DENOISER, "partition.timesteps=3", "noise.sigma_max=50.0", "teacher.steps=7")
    noise, borders = made.recipe.noise, made.ensembles[0].partition.borders
    assert made.sampling == Sampling("heun", 7, noise)
    assert list(borders) == noise.grid(4)[1:-1].tolist()
    assert [student.spec.index for student in made.students] == list(range(6))
    assert owned(made) == [[0, 1]] * 3 + [[2, 3]] * 3
    ends = [noise.sigma_min, *borders, noise.sigma_max]
    for student in made.students:
        own, interval = student.spec.noise, student.spec.index % 3
        assert (own.sigma_min, own.sigma_max) == (ends[interval], ends[interval + 1])
        assert (own.rho, own.sigma_data, own.levels) == (noise.rho, noise.sigma_data, noise.levels)


def test_a_student_draws_only_levels_of_its_own() -> None:
    made = plan(*DENOISER, "partition.k=1", "partition.timesteps=4")
    partition, rng = made.ensembles[0].partition, torch.Generator().manual_seed(0)
    assert partition.k == 4
    for student in made.students:
        noise = student.spec.objective("kd").noise
        drawn = noise.draw(2000, 0, noise.levels - 1, rng)
        # the lowest grid point is the border itself, which belongs to the student below
        others = drawn[partition.interval_at(drawn) != student.spec.index]
        assert all(math.isclose(sigma, noise.sigma_min, rel_tol=1e-6) for sigma in others.tolist())
        assert len(others) < 20


def test_single_students_can_have_sizes_of_their_own() -> None:
    made = sequential("students.1.channel_factor=0.5", "students.1.blocks=4", "evaluation.baselines=true")
    usual, other = (student.spec.denoiser for student in made.ensembles[0].students)
    assert usual == made.student == made.ensembles[1].students[0].spec.denoiser
    assert (other.network.width, other.network.blocks) == (usual.network.width // 2, 4)
    assert made.largest.denoiser == (usual if usual.parameters() > other.parameters() else other)


def test_sizes_are_of_students_that_there_are() -> None:
    with pytest.raises(UserError, match=r"^students.2: the students are those from 0 to 1$"):
        sequential("students.2.blocks=4")
    with pytest.raises(UserError, match=r"unknown key students.1.width"):
        sequential("students.1.width=4")


def test_students_can_share_the_images_of_all() -> None:
    lengths = "stages={a: {objective: dm, images: 1_600, batch: 16}, b: {objective: adm, images: 96, batch: 32}}"
    made = sequential(lengths, "partition.k=4", "training.share_images=true", "evaluation.baselines=true")
    assert {name: stage.images for name, stage in made.students[0].spec.stages.items()} == {"a": 400, "b": 32}
    assert [ensemble.images for ensemble in made.ensembles] == [4 * 432, 432, 4 * 432]
    assert [student.spec.images for student in sequential(lengths, "partition.k=4").students] == [1_696] * 4


def test_a_share_is_at_least_a_batch() -> None:
    with pytest.raises(UserError, match=r"training.share_images: shared by 4 students.*images \(0\)"):
        sequential(stages(only="dm"), "partition.k=4", "stages.only.images=16", "training.share_images=true")


def test_baselines_are_one_student_for_everything() -> None:
    made = plan(*DENOISER, "partition.timesteps=2", "evaluation.baselines=true")
    for ensemble, images in zip(made.ensembles[1:], (160, 640), strict=True):
        assert (ensemble.partition.k, ensemble.partition.borders, ensemble.images) == (1, (), images)
        assert ensemble.students[0].spec.noise == made.recipe.noise
    assert made.ensembles[0].images == 4 * 160


@pytest.mark.parametrize("timesteps", [1, 2])
def test_kd_students_take_as_many_steps_as_the_teacher(timesteps: int) -> None:
    made = plan(*DENOISER, f"partition.timesteps={timesteps}", "teacher.steps=9")
    assert made.sampling == Sampling("heun", 9, Noise())


GUIDED = "stages={kd: {objective: multi-guidance, images: 160, batch: 16, options: {steps: 7, guidance: 2}}}"


def test_students_that_are_told_a_guidance_are_sampled_at_it() -> None:
    made = sequential(GUIDED, "teacher.dropped=0.1")
    assert (made.sampling.kind, made.sampling.nfe, made.sampling.guidance) == ("ddim", 7, 2.0)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ([GUIDED], "stages.kd: multi-guidance asks the teacher for no class as well, .*; write teacher.dropped=0.1"),
        (
            [GUIDED.replace("guidance: 2", "guidance: 5"), "teacher.dropped=0.1"],
            "guidance .5. must be from lowest .1. to highest .4.",
        ),
        (["teacher.dropped=1.5"], "teacher.dropped"),
        (["teacher.dropped=0.1", "teacher.from=there"], "a teacher that is brought is not trained here"),
    ],
)
def test_a_guidance_that_cannot_be_learnt_is_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        sequential(*overrides)
    assert "\n" not in str(told.value)


def test_a_denoiser_before_the_last_stage_changes_nothing() -> None:
    assert sequential(stages(tsm="tsm", dm="dm")).sampling == ONE_STEP


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["partition.timesteps=2"], "adm makes one-step students, which cannot share the timesteps"),
        ([stages(kd="o2mkd", dm="dm"), "partition.timesteps=2"], "dm makes one-step students"),
        ([stages(tsm="tsm")], "tsm alone makes no one-step generator"),
        ([*DENOISER, "teacher.steps=20"], "teacher.steps, .* heun takes 3 to 18 steps"),
        ([*DENOISER, "teacher.steps=2"], "teacher.steps, .* heun takes 3 to 18 steps"),
        ([*DENOISER, "teacher.steps=5", "partition.timesteps=6"], r"timesteps \(6\) above teacher.steps \(5\)"),
        ([SINGLE_FOLD, "partition.timesteps=2"], "partition.timesteps: sfddm trains each student for all of its steps"),
        ([SINGLE_FOLD.replace("7", "100")], "^stages.kd.options.steps, .* ddim takes"),
        ([*DENOISER, "partition.k=5"], "5 students cannot share 4 classes"),
        (
            [*DENOISER, "partition.timesteps=0"],
            "timesteps: input should be greater than or equal to 1, not 0",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        plan("partition.kind=sequential", *overrides)
    assert "\n" not in str(told.value)


def test_tsm_is_enough_for_students_that_share_the_timesteps() -> None:
    assert sequential(stages(tsm="tsm"), "partition.timesteps=2").sampling.kind == "heun"


@pytest.mark.parametrize("objective", ["consistency", "gdd"])
def test_only_students_are_the_identity_at_the_lowest_level(objective: str) -> None:
    made = sequential(stages(first="dm", second=objective), "noise.sigma_min=0.01", "evaluation.baselines=true")
    assert made.teacher.sigma_min == 0.0
    assert made.student.sigma_min == 0.01
    assert {student.spec.denoiser.sigma_min for student in made.students} == {0.01}
    assert sequential().student == sequential().teacher


@dataclass(frozen=True)
class Picky(DM):
    """A method of a user's own, whose discriminator does not fit."""

    @property
    def needs(self) -> Needs:
        def refuse(nets: Any) -> Any:
            assert {p.device.type for net in (nets.generator, nets.fake, nets.encoder) for p in net.parameters()} == {
                "meta"
            }
            raise ValueError("no head for this")

        return Needs(head=refuse)


def test_a_discriminator_that_does_not_fit_is_told() -> None:
    with pytest.raises(UserError, match="the recipe's network does not fit its data: no head for this"):
        sequential(stages(own=f"'{__name__}:Picky'"))


def test_no_pool_is_started_for_a_method_that_asks_the_teacher_nothing() -> None:
    assert RunContext.of("digits", [], None).plan.cluster.teacher == "pool"
    assert RunContext.of("digits-gdd", [], None).plan.cluster.teacher == "local"
    mixed = "stages={gdd: {objective: gdd, images: 64}, dm: {objective: dm, images: 64}}"
    assert RunContext.of("digits-gdd", [mixed], None).plan.cluster.teacher == "pool"


# Methods whose parts join one after the other.


def adversarial(**changes: Any) -> str:
    stage = {"objective": "sida", "images": 160, "batch": 16, "fake_first": 32, "options": {"gan_from": 96}} | changes
    return f"stages={json.dumps({'gan': stage})}"


def test_a_stage_that_ends_before_its_method_is_complete_is_refused() -> None:
    assert plan(adversarial()).recipe.stages["gan"].fake_first == 32
    later = "is complete only after 160 images, and a student sees 160 here; train longer, or set stages.gan.options"
    with pytest.raises(UserError, match=f"stages.gan: sida {later}"):
        plan(adversarial(options={"gan_from": 160}))
    with pytest.raises(UserError, match="is complete only after 96 images, and a student sees 80 here"):
        plan(adversarial(), "training.share_images=true")
    with pytest.raises(UserError, match=r"stages\.gan: fake_first \(100000\) must be below images \(160\)"):
        plan(adversarial(fake_first=None))


def test_the_shipped_recipe_gives_each_part_of_sida_its_time() -> None:
    recipe = RunContext.of("digits-sida", [], None).plan.recipe
    stage = recipe.stages["sida"]
    assert stage.fake_first is not None
    assert 0 < stage.fake_first < stage.options["gan_from"] < stage.images
