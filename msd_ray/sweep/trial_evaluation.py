"""Measures what a trial reports: an ensemble's quality, its latency and its training costs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from msd_ray.codecs import Codec, pictures
from msd_ray.conditions import Conditions, in_turn
from msd_ray.data import Samples
from msd_ray.ensemble import Ensemble
from msd_ray.evaluation import Judge, sampler_row
from msd_ray.evaluation.pictures import to_png
from msd_ray.evaluation.tiles import sheet
from msd_ray.networks import DenoiserSpec
from msd_ray.profiling.clocks import Clock
from msd_ray.profiling.counts import UncountableError, count_student
from msd_ray.profiling.rates import COUNT_ONLY
from msd_ray.runs.costs import ensemble_costs
from msd_ray.runs.plan import Plan
from msd_ray.runs.sample_sources import ensemble_sampler
from msd_ray.sweep.trial_metrics import Report
from msd_ray.training.student_spec import StudentSpec

FEWEST, MOST, ENOUGH = 5, 100, 1.0
"""Repeats of a latency measurement: the fewest, the most, and the seconds after which no more begin."""


@dataclass(frozen=True)
class Speed:
    """Milliseconds to answer one request for one sample, and per sample in batches, by `Clock`: on a CPU the time that
    this process computes, so that other trials on the machine matter as little as possible."""

    latency_ms: float
    batch_latency_ms: float


def speed_of(ensemble: Ensemble, known: Conditions, clock: Clock, batch: int) -> Speed:
    """Medians; the samples of a batch are of all classes in turn, and requests are routed. Batches are not padded, as
    `generate` pads them so that every bit follows from the seed."""

    def sample(ids: Tensor, seeds: list[int]) -> Tensor:
        return ensemble.generate(known.asked(ids), seeds, batch=len(seeds))

    conditions = in_turn(torch.arange(known.n), torch.arange(batch))
    alone = _median(lambda i: sample(conditions[i % batch][None], [i]), clock)
    together = _median(lambda i: sample(conditions, list(range(batch))), clock)
    return Speed(1000 * alone, 1000 * together / batch)


def _median(act: Callable[[int], object], clock: Clock) -> float:
    """Median seconds of some repeats, after one for warming up."""
    act(0)
    found: list[float] = []
    while len(found) < FEWEST or (len(found) < MOST and sum(found) < ENOUGH):
        begin = clock()
        act(len(found))
        found.append(clock() - begin)
    return median(found)


def training_flops(plan: Plan) -> dict[DenoiserSpec, dict[str, float]] | None:
    """Of students of each size, per image of each stage, the teacher's part as if it ran in the student. None where an
    objective's operations cannot be counted."""
    recipe = replace(plan.recipe, cluster=replace(plan.recipe.cluster, teacher="local"))
    plan = replace(plan, recipe=recipe)
    one_of_each = {student.spec.denoiser: student.spec for student in plan.ensembles[0].students}
    try:
        known = {denoiser: count_student(plan, spec, COUNT_ONLY) for denoiser, spec in one_of_each.items()}
    except UncountableError:
        return None
    return {denoiser: {name: stage.flops for name, stage in of.stages.items()} for denoiser, of in known.items()}


def judged(
    judge: Judge, plan: Plan, ensemble: Ensemble, logged: pd.DataFrame, images: int, speed: Speed,
    flops: dict[DenoiserSpec, dict[str, float]] | None,
) -> tuple[Report, Samples]:  # fmt: skip
    """The report of an ensemble whose students have seen `images` each (their trunk's among them), and the samples
    that were judged. logged: the students' curves. flops: as `training_flops` gives them."""
    planned = plan.ensembles[0]
    costs = ensemble_costs(planned, ensemble.sampling, logged)
    row, samples = sampler_row(
        "ensemble", judge, ensemble_sampler(ensemble, plan.conditions), torch.arange(plan.conditions.n), costs
    )
    scores, k = row.scores, planned.partition.k
    trained = [student.spec for student in (*planned.trunks, *planned.students)]
    held = float(logged.loc[logged["name"] == "wall_seconds", "value"].sum())
    report = Report(
        images=images,
        final=images >= plan.first.images,
        students=k,
        samples=scores.n,
        fid=known(scores.fid),
        kid=known(scores.kid),
        precision=known(scores.precision),
        recall=known(scores.recall),
        agreement=scores.agreement,
        latency_ms=speed.latency_ms,
        batch_latency_ms=speed.batch_latency_ms,
        parameters=ensemble.parameters,
        active_parameters=_active_parameters(ensemble),
        nfe=ensemble.nfe,
        total_images=sum(min(images, spec.images) - spec.begins for spec in trained),
        flops=None if flops is None else sum(_own_flops(spec, flops[spec.denoiser], images) for spec in trained),
        cpu_seconds=costs.cpu_seconds or 0.0,
        gpu_seconds=held * plan.cluster.gpus_per_student,
    )
    return report, samples


def _own_flops(spec: StudentSpec, flops: dict[str, float], images: int) -> float:
    """FLOPs of a student that has seen so many images, without those of what it branches off from."""
    return _flops_until(spec, flops, images) - _flops_until(spec, flops, spec.begins)


def _flops_until(spec: StudentSpec, flops: dict[str, float], images: int) -> float:
    total = 0.0
    for name, stage in spec.stages.items():
        total += flops[name] * min(images, stage.images)
        images = max(0, images - stage.images)
    return total


def _active_parameters(ensemble: Ensemble) -> int:
    """Parameters of the students that one request needs, averaged over the conditions."""
    partition = ensemble.partition
    owned = {part: len(partition.router.ids_of(part)) for part in range(partition.parts)}
    asked = sum(owned[partition.part_of_student(m.index)] * m.spec.parameters() for m in ensemble.members)
    return round(asked / partition.router.n)


def known(value: float) -> float | None:
    """None for a value that is not finite, which JSON cannot express."""
    return value if math.isfinite(value) else None


SHOWN = 8
"""Samples of each class, and classes."""


def picture(samples: Samples, classes: int, codec: Codec) -> bytes:
    """PNG of the first samples, a row per class; of points, a scatter plot of all, coloured by class."""
    if codec.picture_shape(tuple(samples.x.shape[1:])) is None:
        return to_png(_scatter(samples))
    shown = [samples.x[samples.condition == c][:SHOWN] for c in range(min(classes, SHOWN))]
    most = min(len(row) for row in shown)
    return sheet(pictures(codec, torch.stack([row[:most] for row in shown])))


def _scatter(samples: Samples) -> Figure:
    figure = Figure(figsize=(3, 3), layout="constrained")
    axes = figure.subplots()
    axes.scatter(samples.x[:, 0], samples.x[:, -1], s=2, c=samples.condition, cmap="tab20", linewidths=0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure
