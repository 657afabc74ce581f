"""The plan of a recipe: which student trains on which conditions, for how long, and of which size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_ray.conditions import Conditions, ConditionsSpec, Partition, PartitionConfig, fit, make_conditions, named
from msd_ray.conditions.conditions import CLASSES
from msd_ray.conditions.fit import KMEANS
from msd_ray.data import DataSet
from msd_ray.diffusion import Noise
from msd_ray.ensemble import ONE_STEP, Sampling
from msd_ray.errors import UserError
from msd_ray.evaluation import FeatureNet, Judge
from msd_ray.networks import DenoiserSpec
from msd_ray.recipes import ClusterConfig, PoolConfig, Recipe
from msd_ray.runs.compatibility import (
    check_codec,
    needs_of,
    refuse_short_stages,
    sampling_of,
    source_of,
    spelled_out,
    student_of,
    teacher_of,
)
from msd_ray.teachers import TeacherSource
from msd_ray.training.config import StageConfig
from msd_ray.training.student_spec import StudentSpec

SHOWN = 10
"""Conditions of a student that are named, before the rest is only counted."""


@dataclass(frozen=True)
class StudentPlan:
    """One student to train. home: the directory inside the run's that it shares with the others of its ensemble, empty
    for the run's own."""

    name: str
    home: str
    spec: StudentSpec

    @property
    def directory(self) -> str:
        """Of its checkpoints, inside the run's."""
        return f"{self.home}/students/{self.spec.index:04d}".lstrip("/")


@dataclass(frozen=True)
class EnsemblePlan:
    """Students that make up one ensemble. home: their directory inside the run's, empty for the run's own."""

    name: str
    home: str
    partition: Partition
    students: tuple[StudentPlan, ...]

    @property
    def directory(self) -> str:
        """Of the ensemble, inside the run's."""
        return f"{self.home}/ensemble".lstrip("/")

    @property
    def images(self) -> int:
        """Generator images that all its students train on together."""
        return sum(student.spec.images for student in self.students)


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
        return [student for ensemble in self.ensembles for student in ensemble.students]

    @property
    def largest(self) -> StudentSpec:
        """The student of the ensemble with the most parameters, the first of several."""
        return max(
            (student.spec for student in self.ensembles[0].students), key=lambda spec: spec.denoiser.parameters()
        )

    @property
    def cluster(self) -> ClusterConfig:
        """The recipe's cluster, without a pool if no stage needs the teacher."""
        spec = self.students[0].spec
        asks = any(spec.objective(stage).needs.teacher != "none" for stage in spec.stages)
        return self.recipe.cluster if asks else replace(self.recipe.cluster, teacher="local")


def make_plan(recipe: Recipe, data: DataSet, features: Callable[[], FeatureNet]) -> Plan:
    """features: called only if the partition depends on them.

    Raises UserError if the recipe's parts do not fit each other or the data.
    """
    needs = {name: needs_of(recipe, name) for name in recipe.stages}
    recipe, sampling = spelled_out(recipe, needs), sampling_of(recipe, needs)
    check_codec(recipe, data)
    teacher, source = teacher_of(recipe, data), source_of(recipe, data, needs)
    looked_into = source.spec if source else teacher
    student = student_of(recipe, teacher, looked_into, recipe.student, needs.values())
    single = {i: student_of(recipe, teacher, looked_into, size, needs.values()) for i, size in recipe.students.items()}
    conditions = make_conditions(recipe.conditions, data.labels)
    partition = fit(recipe.partition, conditions, _means(recipe, data, features), recipe.noise)
    if strangers := [i for i in single if not 0 <= i < partition.k]:
        raise UserError(f"students.{strangers[0]}: the students are those from 0 to {partition.k - 1}")
    each = _for_each_student(recipe, partition.k)
    refuse_short_stages(each, needs)
    ensembles = [_ensemble_plan(each, [single.get(i, student) for i in range(partition.k)], "ensemble", "", partition)]
    if recipe.evaluation.baselines:
        ensembles += _baselines(each, student, conditions, partition.k)
    return Plan(recipe, teacher, student, data.labels, conditions, tuple(ensembles), sampling, source)


def _for_each_student(recipe: Recipe, students: int) -> Recipe:
    """The recipe with the stages' images of one student. Raises UserError if its share is too small."""
    if not recipe.training.share_images:
        return recipe
    try:
        stages = {name: _share(stage, students) for name, stage in recipe.stages.items()}
    except ValueError as error:
        raise UserError(f"training.share_images: shared by {students} students, a stage has too few: {error}") from None
    return replace(recipe, stages=stages)


def _share(stage: StageConfig, students: int) -> StageConfig:
    """To the nearest whole batch."""
    return replace(stage, images=round(stage.images / students / stage.batch) * stage.batch)


def _means(recipe: Recipe, data: DataSet, features: Callable[[], FeatureNet]) -> NDArray[np.float64] | None:
    """The mean features of each class, by which k-means groups them."""
    if recipe.partition.kind != KMEANS:
        return None
    return Judge(features(), data.train, recipe.evaluation).class_means(data.classes)


def _baselines(recipe: Recipe, student: DenoiserSpec, conditions: Conditions, students: int) -> list[EnsemblePlan]:
    """The baselines, one student for all conditions: with the images of one student of the ensemble, and with those of
    all."""
    alone = fit(PartitionConfig(k=1), conditions)
    longer = {name: replace(stage, images=stage.images * students) for name, stage in recipe.stages.items()}
    return [
        _ensemble_plan(recipe, [student], "one student, same images each", "baselines/same-each", alone),
        _ensemble_plan(
            replace(recipe, stages=longer), [student], "one student, same total images", "baselines/same-total", alone
        ),
    ]


def _ensemble_plan(
    recipe: Recipe, denoisers: list[DenoiserSpec], name: str, home: str, partition: Partition
) -> EnsemblePlan:
    students = tuple(
        StudentPlan(
            name=name if home else f"student {i}",
            home=home,
            spec=StudentSpec(
                index=i,
                seed=recipe.seed,
                denoiser=denoiser,
                stages=recipe.stages,
                training=recipe.training,
                noise=_narrowed(recipe.noise, partition.interval_of(i)),
                shards=recipe.training.shards,
            ),
        )
        for i, denoiser in enumerate(denoisers)
    )
    return EnsemblePlan(name, home, partition, students)


def _narrowed(noise: Noise, interval: tuple[float, float]) -> Noise:
    low, high = interval
    return replace(noise, sigma_min=max(noise.sigma_min, low), sigma_max=min(noise.sigma_max, high))


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as facts for JSON."""
    recipe, cluster, stages = plan.recipe, plan.cluster, plan.students[0].spec.stages
    return {
        "recipe": recipe.name,
        "teacher": _teacher(plan),
        "student": _parameters(plan),
        "partition": f"{recipe.partition.kind}, k = {recipe.partition.k}, timesteps = {recipe.partition.timesteps}",
        "stages": "; ".join(f"{name} ({s.objective}, {s.images:,} images)" for name, s in stages.items()),
        "student_actors": f"{len(plan.students)} x {_each(cluster.cpus_per_student, cluster.gpus_per_student)}",
        "teacher_actors": _replicas(cluster.pool)
        if cluster.teacher == "pool"
        else "none: the teacher runs in each student",
        "students": [_student(plan, ensemble, student) for ensemble in plan.ensembles for student in ensemble.students],
    }


def _teacher(plan: Plan) -> str:
    origin = f", from {plan.recipe.teacher.source}" if plan.source else ""
    blind = "; its operations and memory are not counted" if plan.source and not plan.source.spec else ""
    return f"{plan.teachers_parameters:,} parameters{origin}{blind}"


def _parameters(plan: Plan) -> str:
    least, *more = sorted({student.spec.denoiser.parameters() for student in plan.students})
    return f"{least:,} to {more[-1]:,} parameters" if more else f"{least:,} parameters"


def _replicas(pool: PoolConfig) -> str:
    most = f" to {pool.max_replicas}" if pool.max_replicas > pool.min_replicas else ""
    return f"{pool.min_replicas}{most} x {_each(pool.cpus, pool.gpus)}"


def _each(cpus: float, gpus: float) -> str:
    return f"({cpus:g} CPU, {gpus:g} GPU)"


def _student(plan: Plan, ensemble: EnsemblePlan, student: StudentPlan) -> dict[str, Any]:
    levels = f", sigma {student.spec.noise.sigma_min:.3g} to {student.spec.noise.sigma_max:.3g}"
    ids = ensemble.partition.owned_by(student.spec.index, plan.conditions).ids.tolist()
    return {
        "student": student.name,
        "owns": named(plan.conditions.labels(ids), SHOWN) + (levels if plan.recipe.partition.timesteps > 1 else ""),
        "parameters": f"{student.spec.denoiser.parameters():,}",
        "images": f"{student.spec.images:,}",
    }
