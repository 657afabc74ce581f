"""What `plan` says of a run: how long it takes on some nodes, and what each process needs. No Ray in here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from msd_ray.cluster.planning.forecast import Forecast, Upcoming, forecast
from msd_ray.cluster.planning.layout import check_fits
from msd_ray.errors import UserError
from msd_ray.formatting import size
from msd_ray.networks.denoiser_spec import stored_parameters
from msd_ray.profiling.counts import StudentCount, TeacherCount, UncountableError, count_student, count_teacher
from msd_ray.profiling.plan_times import priced, rates_here, time_plan, too_slow_to_try
from msd_ray.profiling.rates import COUNT_ONLY, Rates, given_rates
from msd_ray.runs.disk_needs import FLOAT
from msd_ray.runs.nodes import NodeKind, read_cluster, this_machine
from msd_ray.runs.pairs import CHUNK, chunks_of, has_chunk, pairs_folder
from msd_ray.runs.plan import Plan, most_at_a_time
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import cached_in
from msd_ray.teachers.kept_teacher import has_teacher

RAY = 6.0
"""Seconds in which a local Ray cluster starts and ends (5 to 6.4 s with Ray 2.60, two CPUs)."""
LIBRARIES = 450_000_000
"""Bytes of a process that has Python, torch and Ray loaded (0.4 to 0.5 GB)."""
CONTEXT = 500_000_000
"""Bytes that CUDA itself takes on a GPU for each process (0.3 to 0.6 GB)."""


@dataclass(frozen=True)
class Outlook:
    """student, teacher: what was counted of the largest student, if its objectives allow it, and of the teacher.
    ensemble: bytes. steps: where the seconds of the forecast come from. tflops: that updates are taken to reach.
    workers: that share a student at least."""

    forecast: Forecast
    student: StudentCount | None
    teacher: TeacherCount
    ensemble: int
    steps: str
    tflops: float | None
    workers: int = 1

    def to_json(self) -> dict[str, Any]:
        """Bytes, and floating-point operations; the memory of a student is that of each of its `workers`."""
        needs: dict[str, Any] = {
            "workers": self.workers,
            "libraries": LIBRARIES,
            "teacher_replica_memory": self.teacher.replica,
            "teacher_training_memory": self.teacher.memory,
            "teacher_checkpoint": self.teacher.state,
            "ensemble": self.ensemble,
            "tflops": self.tflops,
            "steps": self.steps,
        }
        if self.student is None:
            return needs
        flops = {name: stage.flops for name, stage in self.student.stages.items()}
        of_student = {"student_memory": self.student.memory, "student_checkpoint": self.student.state}
        return {**needs, **of_student, "flops_per_image": flops}


def outlook(context: RunContext, nodes: str | None, tflops: float | None = None) -> Outlook:
    """On this machine, or on the cluster that the file `nodes` describes. tflops: that a student's device reaches.

    Raises UserError where the file is wrong, its nodes have no room for the run, or their GPUs too little memory.
    """
    plan, cluster = context.plan, (read_cluster(nodes) if nodes else this_machine()).each()
    check_fits(most_at_a_time(plan.students), plan.cluster, cluster)
    tflops, cluster = _given(cluster, tflops)
    rates, steps = _rates(plan, tflops)
    student, teacher = _student(plan, rates, needed=bool(steps)), count_teacher(plan, rates)
    refuse_small_gpus(plan, student.memory if student else 0, teacher.replica, cluster)
    timing = priced(plan, student, teacher, rates) if steps and student else time_plan(plan)
    assert timing, "what is too large to try is counted"
    found = forecast(plan, timing, cluster, ahead_of(context, local=nodes is None))
    sizes = [(student.spec.denoiser, student.spec.adapter) for student in plan.ensembles[0].students]
    ensemble = FLOAT * stored_parameters(sizes)
    known = rates.flops / 1e12 if steps else None
    workers = plan.cluster.workers_per_student[0]
    return Outlook(found, student, teacher, ensemble, steps or "tried on this machine", known, workers)


def _rates(plan: Plan, tflops: float | None) -> tuple[Rates, str]:
    """Also where they are from; nothing where updates are to be tried instead."""
    if tflops:
        return given_rates(tflops), f"counted, at {tflops:.3g} TFLOP/s as given: an extrapolation"
    if not too_slow_to_try(plan):
        return COUNT_ONLY, ""
    rates = rates_here(plan)
    return rates, (
        f"counted, since a network is too large to be tried on CPUs, at {rates.flops / 1e12:.3g} TFLOP/s and "
        f"{size(int(rates.moved))}/s, which the largest operations reach on this machine: an extrapolation"
    )


def _student(plan: Plan, rates: Rates, needed: bool) -> StudentCount | None:
    """None where it cannot be counted. Raises UserError where nothing else says how long it takes."""
    try:
        return count_student(plan, plan.largest, rates)
    except UncountableError as error:
        if needed:
            raise UserError(
                f"{error}; plan it where updates can be tried, on a GPU or with a smaller network"
            ) from None
        return None


def _given(nodes: list[NodeKind], tflops: float | None) -> tuple[float | None, list[NodeKind]]:
    """The rate that speed 1 stands for, where one is given, and the nodes with speeds in terms of it."""
    told = [node for node in nodes if node.tflops is not None]
    if not told:
        return tflops, nodes
    if tflops:
        raise UserError(f"the node {told[0].name} has tflops already: give them there or as --tflops, not both")
    if silent := [node for node in nodes if node.tflops is None]:
        raise UserError(f"the node {silent[0].name} has no tflops: give all nodes tflops, or none")
    first = told[0].tflops or 1.0
    return first, [replace(node, speed=(node.tflops or first) / first, tflops=None) for node in nodes]


def refuse_small_gpus(plan: Plan, student: int, replica: int, nodes: Sequence[NodeKind]) -> None:
    """Raises UserError where a student's bytes, or a teacher replica's, are more than its share of a node's GPU."""
    config = plan.cluster
    who = "a student" if config.workers_per_student[0] == 1 else "a worker of a student"
    needs = [(who, student, config.gpus_per_student, "cluster.gpus_per_student")]
    if config.teacher == "pool":
        needs.append(("a teacher replica", replica, config.pool.gpus, "cluster.pool.gpus"))
    for node in nodes:
        for whom, needed, share, key in needs:
            there = int((node.gpu_memory or 0) * 1e9 * min(share, 1.0))
            if node.gpus and there and needed + CONTEXT > there:
                raise UserError(
                    f"{whom} needs {size(needed + CONTEXT)} of a GPU's memory, and has {size(there)} on the node "
                    f"{node.name}: lower the stages' batch or the network's size, raise {key} up to 1, or describe "
                    f"larger GPUs"
                )


def ahead_of(context: RunContext, local: bool) -> Upcoming:
    """local: whether Ray has to be started for the run."""
    plan, cache = context.plan, context.cache
    places = context.store.child("teacher"), cached_in(cache, plan.recipe, plan.teacher)
    taught = plan.source is not None or any(map(has_teacher, places))
    wanted = any(
        student.spec.objective(stage).needs.pairs for student in plan.students for stage in student.spec.stages
    )
    folder = pairs_folder(cache, plan)
    missing = [chunk for chunk in chunks_of(plan) if wanted and not has_chunk(folder, chunk)]
    return Upcoming(teacher=not taught, pairs=CHUNK * len(missing), ray=RAY if local else 0.0)
