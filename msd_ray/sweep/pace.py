"""After how many images a trial reports, and where trials may share what they trained."""

from itertools import accumulate

from msd_ray.ensemble import ONE_STEP
from msd_ray.runs.plan import Plan
from msd_ray.sweep.schema import Scheduler


def milestones(scheduler: Scheduler, plan: Plan) -> list[int]:
    """Images per student after which a trial reports, rising; the last is the whole training. Where students become
    one-step generators in a later stage, nothing is measured before."""
    spec = plan.jobs[0].spec
    start = (shareable(plan) or [0])[-1]
    return [n for n in _wanted(scheduler, spec.images) if start < n < spec.images] + [spec.images]


def _wanted(scheduler: Scheduler, images: int) -> list[int]:
    if scheduler.kind == "median":
        return list(range(scheduler.first, images, scheduler.first))
    if scheduler.kind == "none":
        return []
    rungs, n = [], scheduler.first
    while n < images:
        rungs.append(n)
        n *= scheduler.factor
    return rungs


def shareable(plan: Plan) -> list[int]:
    """Images per student at which the stages end that give one-step students their start (TSM): whatever follows them
    may differ between trials, they themselves depend on partition and size alone."""
    if plan.sampling != ONE_STEP:
        return []
    spec = plan.jobs[0].spec
    ends = accumulate(stage.images for stage in spec.stages.values())
    starts = []
    for name, end in zip(spec.stages, ends, strict=True):
        if spec.objective(name).needs.makes == "generator":
            break
        starts.append(end)
    return starts
