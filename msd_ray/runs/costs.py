"""The training costs of a run's teacher and ensembles."""

from dataclasses import replace

import pandas as pd

from msd_ray.ensemble import Sampling
from msd_ray.evaluation import Costs
from msd_ray.networks.denoiser_spec import stored_parameters
from msd_ray.runs.plan import EnsemblePlan, StudentPlan
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import teacher_in
from msd_ray.teachers.kept_teacher import KeptTeacher


def teacher_costs(context: RunContext, sampling: Sampling) -> Costs:
    """The costs of the teacher, sampled as `sampling` says."""
    teacher = teacher_in(context.store, context.plan)
    costs = Costs(parameters=teacher.parameters, nfe=sampling.nfe)
    if context.plan.source or not isinstance(teacher, KeptTeacher):  # what its training cost nobody knows
        return costs
    facts = teacher.facts
    return replace(
        costs,
        images=context.recipe.teacher.images,
        wall_seconds=facts["wall_seconds"],
        cpu_seconds=facts["cpu_seconds"],
    )


def ensemble_costs(ensemble: EnsemblePlan, sampling: Sampling, logged: pd.DataFrame) -> Costs:
    """The costs of an ensemble: images and CPU of all students and trunks together, and the wall time of the slowest
    student and the trunks."""
    each = [student_costs(student, sampling, logged) for student in ensemble.students]
    trunks = [student_costs(student, sampling, logged) for student in ensemble.trunks]
    return Costs(
        parameters=stored_parameters((s.spec.denoiser, s.spec.adapter) for s in ensemble.students),
        nfe=sampling.nfe,
        images=ensemble.images,
        wall_seconds=max(c.wall_seconds or 0.0 for c in each) + sum(c.wall_seconds or 0.0 for c in trunks),
        cpu_seconds=sum(c.cpu_seconds or 0.0 for c in (*trunks, *each)),
    )


def student_costs(student: StudentPlan, sampling: Sampling, logged: pd.DataFrame) -> Costs:
    """CPU seconds include what the student's requests cost the teacher pool."""
    seconds = logged[logged["student"] == student.name].groupby("name")["value"].sum()
    return Costs(
        parameters=student.spec.denoiser.parameters(),
        nfe=sampling.nfe,
        images=student.spec.images,
        wall_seconds=float(seconds.get("wall_seconds", 0.0)),
        cpu_seconds=float(seconds.get("cpu_seconds", 0.0) + seconds.get("teacher_cpu_seconds", 0.0)),
    )
