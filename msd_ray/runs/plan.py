"""The plan of a recipe: which student trains on which conditions, for how long, and of which size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from msd_ray.conditions import Conditions, ConditionsSpec, Partition, PartitionConfig, fit, make_conditions
from msd_ray.conditions.kinds import CLASSES
from msd_ray.conditions.partition_config import KMEANS
from msd_ray.data import DataSet
from msd_ray.diffusion import Noise
from msd_ray.ensemble import ONE_STEP, Sampling
from msd_ray.errors import UserError
from msd_ray.evaluation import FeatureNet, Judge
from msd_ray.networks import DenoiserSpec, StudentSize
from msd_ray.recipes import ClusterConfig, Recipe
from msd_ray.runs.compatibility import (
    check_adapters,
    check_begins,
    check_codec,
    check_experts,
    check_pictures,
    check_ranks,
    needs_of,
    refuse_minimised,
    refuse_short_stages,
    sampling_of,
    source_of,
    spelled_out,
    student_of,
    teacher_of,
)
from msd_ray.runs.learned_partition import check_learnable
from msd_ray.runs.token_checks import check_tokens
from msd_ray.runs.training_checks import check_no_class, check_training
from msd_ray.teachers import TeacherSource
from msd_ray.training.config import StageConfig
from msd_ray.training.student_spec import StudentSpec

MEANS_OF = 20_000
"""Samples, evenly spread, that the mean features of classes are taken of, by which k-means groups them."""


@dataclass(frozen=True)
class StudentPlan:
    """One student to train. home: the directory inside the run's that it shares with the others of its ensemble, empty
    for the run's own. parts: of the conditions, that it is trained on. trunk: the student that it branches off from.
    trunk_number: among the trunks of its ensemble, if others branch off from it, and it belongs to no ensemble itself;
    None otherwise."""

    name: str
    home: str
    spec: StudentSpec
    parts: range
    trunk: "StudentPlan | None" = None
    trunk_number: int | None = None

    @property
    def directory(self) -> str:
        """Of its checkpoints, inside the run's."""
        here = f"students/{self.spec.index:04d}" if self.trunk_number is None else f"trunks/{self.trunk_number:04d}"
        return f"{self.home}/{here}".lstrip("/")

    @property
    def lineage(self) -> "tuple[StudentPlan, ...]":
        """It, the trunk that it branches off from, the one that this branches off from, and so on."""
        return (self, *(self.trunk.lineage if self.trunk else ()))


def most_at_a_time(students: Sequence[StudentPlan]) -> int:
    """How many of them can train at the same time: a trunk ends before what branches off from it begins."""
    return sum(student.trunk_number is None for student in students)


def most_beside(trunk: StudentPlan, students: Sequence[StudentPlan]) -> int:
    """How many of them can train while this one does, itself included."""
    waiting = [s for s in students if trunk.directory in [above.directory for above in s.lineage]]
    return 1 + most_at_a_time(students) - most_at_a_time(waiting)


@dataclass(frozen=True)
class EnsemblePlan:
    """Students that make up one ensemble. home: their directory inside the run's, empty for the run's own. trunks: what
    they branch off from, each before what branches off from it."""

    name: str
    home: str
    partition: Partition
    students: tuple[StudentPlan, ...]
    trunks: tuple[StudentPlan, ...] = ()

    @property
    def directory(self) -> str:
        """Of the ensemble, inside the run's."""
        return f"{self.home}/ensemble".lstrip("/")

    @property
    def images(self) -> int:
        """Generator images that all its students and trunks train on together."""
        return sum(student.spec.own_images for student in (*self.trunks, *self.students))


@dataclass(frozen=True)
class Plan:
    """recipe: every value spelled out. student: the size of all students except those that the recipe gives by number.
    ensembles: the ensemble first, then the baselines that it is compared with. sampling: how all of them make samples.
    teacher: the shape of the teacher that is trained here, or that students are cut from. source: of a teacher that is
    not trained here, None otherwise."""

    recipe: Recipe
    teacher: DenoiserSpec
    student: DenoiserSpec
    labels: tuple[str, ...]
    conditions: Conditions
    ensembles: tuple[EnsemblePlan, ...]
    sampling: Sampling = ONE_STEP
    source: TeacherSource | None = None

    @property
    def teachers_parameters(self) -> int:
        return self.source.parameters if self.source else self.teacher.parameters()

    @property
    def conditions_spec(self) -> ConditionsSpec | None:
        """How its conditions are made, if they are not class numbers."""
        own = self.recipe.conditions.kind != CLASSES
        return ConditionsSpec(self.recipe.conditions, self.labels) if own else None

    @property
    def students(self) -> list[StudentPlan]:
        """All that are trained, trunks too, each after what it branches off from."""
        return [student for ensemble in self.ensembles for student in (*ensemble.trunks, *ensemble.students)]

    @property
    def first(self) -> StudentSpec:
        """The first student of the ensemble."""
        return self.ensembles[0].students[0].spec

    @property
    def largest(self) -> StudentSpec:
        """The student of the ensemble with the most parameters, the first of several."""
        return max(
            (student.spec for student in self.ensembles[0].students), key=lambda spec: spec.denoiser.parameters()
        )

    @property
    def cluster(self) -> ClusterConfig:
        """The recipe's cluster, without a pool if no stage needs the teacher."""
        spec = self.first
        asks = any(spec.objective(stage).needs.teacher != "none" for stage in spec.stages)
        return self.recipe.cluster if asks else replace(self.recipe.cluster, teacher="local")


def make_plan(recipe: Recipe, data: DataSet, features: Callable[[], FeatureNet]) -> Plan:
    """features: called only if the partition depends on them.

    Raises UserError if the recipe's parts do not fit each other or the data.
    """
    needs = {name: needs_of(recipe, name) for name in recipe.stages}
    recipe, sampling = spelled_out(recipe, needs), sampling_of(recipe, needs)
    check_training(recipe)
    check_codec(recipe, data)
    check_experts(recipe)
    check_tokens(recipe, data)
    check_begins(recipe, needs)
    refuse_minimised(recipe, data, needs)
    check_pictures(recipe, data, needs)
    conditions = make_conditions(recipe.conditions, data.labels)
    check_learnable(recipe, conditions, needs)
    source = source_of(recipe, data, conditions, needs)
    teacher = teacher_of(recipe, data, conditions, source.spec if source else None)
    check_no_class(recipe, conditions, needs)
    check_adapters(recipe, source, needs)
    looked_into = source.spec if source else teacher
    student = student_of(recipe, teacher, looked_into, recipe.student, needs.values())
    single = {i: student_of(recipe, teacher, looked_into, size, needs.values()) for i, size in recipe.students.items()}
    partition = fit(recipe.partition, conditions, _means(recipe, data, conditions, features), recipe.noise)
    if strangers := [i for i in single if not 0 <= i < partition.k]:
        raise UserError(f"students.{strangers[0]}: the students are those from 0 to {partition.k - 1}")
    each = _for_each_student(recipe, partition.k)
    refuse_short_stages(each, needs)
    _check_shared(each, partition.parts, len({student, *single.values()}))
    denoisers = [single.get(i, student) for i in range(partition.k)]
    sizes = [recipe.students.get(i, recipe.student) for i in range(partition.k)]
    check_ranks(teacher, sizes)
    ensembles = [_ensemble_plan(each, denoisers, "ensemble", "", partition, sizes)]
    if recipe.evaluation.baselines:
        ensembles += _baselines(each, student, conditions, partition.k)
    return Plan(recipe, teacher, student, conditions.kept, conditions, tuple(ensembles), sampling, source)


def _for_each_student(recipe: Recipe, students: int) -> Recipe:
    """The recipe with the stages' images of one student. Raises UserError if its share is too small."""
    if not recipe.training.share_images:
        return recipe
    try:
        stages = {name: _share(stage, stage.groups or students) for name, stage in recipe.stages.items()}
    except ValueError as error:
        raise UserError(f"training.share_images: shared by {students} students, a stage has too few: {error}") from None
    return replace(recipe, stages=stages)


def _share(stage: StageConfig, students: int) -> StageConfig:
    """To the nearest whole batch."""
    return replace(stage, images=round(stage.images / students / stage.batch) * stage.batch)


def _means(
    recipe: Recipe, data: DataSet, conditions: Conditions, features: Callable[[], FeatureNet]
) -> NDArray[np.float64] | None:
    """The mean features of each class, by which k-means groups them; prompts have vectors of their own."""
    if recipe.partition.kind != KMEANS or conditions.is_open:
        return None
    return Judge(features(), data.train.thinned(MEANS_OF), recipe.evaluation).class_means(data.classes)


def _baselines(recipe: Recipe, student: DenoiserSpec, conditions: Conditions, students: int) -> list[EnsemblePlan]:
    """The baselines, one student for all conditions: with the images of one student of the ensemble, and with those of
    all. They train all their weights."""
    alone, shared = fit(PartitionConfig(k=1), conditions), recipe.stages
    recipe = replace(recipe, stages={name: replace(stage, shared=False) for name, stage in recipe.stages.items()})
    longer = {
        name: replace(stage, images=stage.images * (shared[name].groups or students))
        for name, stage in recipe.stages.items()
    }
    return [
        _ensemble_plan(recipe, [student], "one student, same images each", "baselines/same-each", alone),
        _ensemble_plan(
            replace(recipe, stages=longer), [student], "one student, same total images", "baselines/same-total", alone
        ),
    ]


def _ensemble_plan(
    recipe: Recipe,
    denoisers: list[DenoiserSpec],
    name: str,
    home: str,
    partition: Partition,
    sizes: Sequence[StudentSize] = (StudentSize(),),
) -> EnsemblePlan:
    trunks, of_part = _trunks(recipe, denoisers[0], home, partition)
    students = []
    for i, (denoiser, size) in enumerate(zip(denoisers, sizes, strict=True)):
        part, trunk = partition.part_of_student(i), of_part.get(partition.part_of_student(i))
        noise, begins = narrowed(recipe.noise, partition, i), trunk.spec.images if trunk else 0
        phases = partition.intervals if len(recipe.noise.step_levels) > 1 else 1
        phase = phases - 1 - i % phases
        spec = _student_spec(recipe, i, denoiser)
        spec = replace(spec, noise=noise, begins=begins, phase=phase, phases=phases)
        spec = replace(spec, adapter=size.adapter, fake_adapter=size.fake_adapter)
        students.append(StudentPlan(name if home else f"student {i}", home, spec, range(part, part + 1), trunk))
    return EnsemblePlan(name, home, partition, tuple(students), tuple(trunks))


def _trunks(
    recipe: Recipe, denoiser: DenoiserSpec, home: str, partition: Partition
) -> tuple[list[StudentPlan], dict[int, StudentPlan]]:
    """The students of the shared stages, and the last of them for each part.

    A trunk's index is the number of its group, whatever k is: ensembles of any size then share the same trunk. None of
    its random streams is that of a student of the same index, since these begin where it ends.
    """
    trunks, of_part = list[StudentPlan](), dict[int, StudentPlan]()
    names = list(recipe.stages)
    for last, name in enumerate(names):
        groups = recipe.stages[name].groups
        following = recipe.stages[names[last + 1]].groups if last + 1 < len(names) else 0
        if not groups or following == groups:
            continue
        for group in range(groups):
            parts = range(-(-group * partition.parts // groups), -(-(group + 1) * partition.parts // groups))
            above = of_part.get(parts[0])
            stages = {stage: recipe.stages[stage] for stage in names[: last + 1]}
            spec = replace(
                _student_spec(recipe, group, denoiser),
                stages=stages,
                begins=above.spec.images if above else 0,
            )
            label = "trunk" if groups == 1 else f"trunk of parts {parts[0]} to {parts[-1]}"
            trunks.append(StudentPlan(label, home, spec, parts, above, len(trunks)))
        of_part = {part: trunk for trunk in trunks[-groups:] for part in trunk.parts}
    return trunks, of_part


def _student_spec(recipe: Recipe, index: int, denoiser: DenoiserSpec) -> StudentSpec:
    return StudentSpec(
        index=index,
        seed=recipe.seed,
        denoiser=denoiser,
        stages=recipe.stages,
        training=recipe.training,
        noise=recipe.noise,
        shards=recipe.training.shards,
    )


def _check_shared(recipe: Recipe, parts: int, sizes: int) -> None:
    """Raises UserError where the shared stages do not come first, do not divide, or students differ in size. sizes: how
    many different ones there are."""
    groups = [(name, stage.groups) for name, stage in recipe.stages.items()]
    for (_, here), (other, following) in pairwise(groups):
        if following and not 0 < here <= following:
            raise UserError(f"stages.{other}.shared: shared stages come first, those of fewer groups before others")
    for name, here in groups:
        if here > parts:
            raise UserError(f"stages.{name}.shared: there are only {parts} parts, which {here} groups cannot divide")
    if groups[-1][1]:
        raise UserError(f"stages.{groups[-1][0]}.shared: the last stage is each student's own")
    if groups[0][1] and sizes > 1:
        raise UserError("students: students of different sizes cannot share a stage")


def narrowed(noise: Noise, partition: Partition, student: int) -> Noise:
    """The noise levels that are a student's, and of the steps of a sample those that it makes, by the rule by which
    sampling asks. Raises UserError where it would have none."""
    if not partition.borders:
        return noise
    (low, high), levels = partition.interval_of(student), noise.step_levels
    own = partition.steps_of(student, levels) if len(levels) > 1 else levels
    if not own:
        raise UserError(f"noise.steps: in float32 no level is left for student {student}; take other levels")
    low, high = max(noise.sigma_min, low), min(noise.sigma_max, high)
    try:
        return replace(noise, sigma_min=low, sigma_max=high, sigma_init=own[0], steps=own[1:] or 1)
    except ValueError as error:
        raise UserError(f"partition.timesteps: too few noise levels for student {student}: {error}") from None
