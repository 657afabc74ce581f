"""A plan in words."""

from collections.abc import Sequence
from typing import Any

from msd_ray.conditions import named
from msd_ray.recipes import PoolConfig
from msd_ray.runs.learned_partition import still_to_learn
from msd_ray.runs.plan import EnsemblePlan, Plan, StudentPlan
from msd_ray.runs.rows import flattered
from msd_ray.training.config import StageConfig

SHOWN = 10
"""Conditions of a student that are named, before the rest is only counted."""


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as facts for JSON."""
    recipe, cluster = plan.recipe, plan.cluster
    remark = flattered(recipe, plan.teacher.sample_shape)
    return {
        "recipe": recipe.name,
        "teacher": _teacher(plan),
        "student": _parameters(plan),
        "partition": _partition(plan),
        "stages": "; ".join(_stage(name, stage) for name, stage in plan.first.stages.items()),
        "student_actors": f"{len(plan.students)} x {_each(cluster.cpus_per_student, cluster.gpus_per_student)}",
        "teacher_actors": _replicas(cluster.pool)
        if cluster.teacher == "pool"
        else "none: the teacher runs in each student",
        **({"scores": remark} if remark else {}),
        "students": students_of(plan, plan.ensembles),
    }


def students_of(plan: Plan, ensembles: Sequence[EnsemblePlan]) -> list[dict[str, str]]:
    """What each student of these ensembles is, trunks first. If there are any, also what it branches off from, and how
    many images are its own."""
    tree = any(ensemble.trunks for ensemble in ensembles)
    return [
        _student(plan, ensemble, student, tree)
        for ensemble in ensembles
        for student in (*ensemble.trunks, *ensemble.students)
    ]


def _stage(name: str, stage: StageConfig) -> str:
    groups = {0: "", 1: ", shared"}.get(stage.groups, f", shared by {stage.groups} groups")
    return f"{name} ({stage.objective}, {stage.images:,} images{groups})"


def _partition(plan: Plan) -> str:
    said, only = plan.recipe.partition, plan.recipe.conditions.options.get("only", ())
    words = f"; only prompts with one of the words {', '.join(only)}" if only else ""
    return f"{said.kind}, k = {said.k}, timesteps = {said.timesteps}{words}"


def _teacher(plan: Plan) -> str:
    counted = f"{plan.teachers_parameters:,} parameters"
    if not plan.source:
        return counted
    origin = f"{counted}, from {plan.recipe.teacher.origin}"
    if not plan.source.spec:
        return f"{origin}; its operations and memory are not counted"
    alike = plan.source.spec.network == plan.student.network
    return origin if alike else f"{origin}; students have another network, so they start from random weights"


def _parameters(plan: Plan) -> str:
    least, *more = sorted({student.spec.denoiser.parameters() for student in plan.students})
    return f"{least:,} to {more[-1]:,} parameters" if more else f"{least:,} parameters"


def _replicas(pool: PoolConfig) -> str:
    most = f" to {pool.max_replicas}" if pool.max_replicas > pool.min_replicas else ""
    return f"{pool.min_replicas}{most} x {_each(pool.cpus, pool.gpus)}"


def _each(cpus: float, gpus: float) -> str:
    return f"({cpus:g} CPU, {gpus:g} GPU)"


def _student(plan: Plan, ensemble: EnsemblePlan, student: StudentPlan, tree: bool) -> dict[str, str]:
    spec, trunk = student.spec, student.trunk
    levels = f", sigma {spec.noise.sigma_min:.3g} to {spec.noise.sigma_max:.3g}"
    ids = ensemble.partition.owned_by_parts(student.parts, plan.conditions).ids.tolist()
    origin = {"branches off from": trunk.name if trunk else ""} if tree else {}
    own = {"of its own": f"{spec.own_images:,}"} if tree else {}
    owns = named(plan.conditions, ids, SHOWN)
    if still_to_learn(plan) and student in plan.ensembles[0].students:
        owns = f"{len(ids)} {plan.conditions.called[1]}, chosen after the trunk"
    return {
        "student": student.name,
        **origin,
        "owns": owns + (levels if plan.recipe.partition.timesteps > 1 else ""),
        "parameters": f"{spec.denoiser.parameters():,}",
        "images": f"{spec.images:,}",
        **own,
    }
