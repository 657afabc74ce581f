"""The numbers of images at which a trial reports, and those up to which trials can share their training."""

from collections.abc import Sequence
from itertools import accumulate

from msd_ray.ensemble import ONE_STEP
from msd_ray.errors import UserError
from msd_ray.runs.plan import Plan
from msd_ray.sweep.definition import SchedulerConfig


def check_scheduler(scheduler: SchedulerConfig, plans: Sequence[Plan]) -> None:
    """Raises UserError if no trial would report before its end, so that none could be stopped, or if reports are due at
    numbers of images at which students have no checkpoint."""
    if scheduler.kind == "none":
        return
    if all(len(milestones(scheduler, plan)) == 1 for plan in plans):
        raise UserError(_too_late(scheduler, plans))
    for every in sorted({plan.recipe.training.checkpoint_every for plan in plans}):
        if rest := scheduler.first % every:
            near = [n for n in (scheduler.first - rest, scheduler.first - rest + every) if n]
            raise UserError(
                f"scheduler.first ({scheduler.first:,}) must be a multiple of training.checkpoint_every ({every:,}): "
                f"write {' or '.join(map(str, near))}"
            )


def _too_late(scheduler: SchedulerConfig, plans: Sequence[Plan]) -> str:
    images, every = max((p.first.images, p.recipe.training.checkpoint_every) for p in plans)
    begin = max(_start(plan) for plan in plans)
    last = (images - 1) // every * every
    advice = f"write at most {last}" if last > begin else "lower it together with training.checkpoint_every"
    return (
        f"scheduler.first ({scheduler.first:,}): no trial would be measured before its end, at most {images:,} images, "
        f"so none could be stopped; {advice}, or scheduler.kind: none"
    )


def milestones(scheduler: SchedulerConfig, plan: Plan) -> list[int]:
    """Images per student after which a trial reports, rising; the last is the whole training. If students become
    one-step generators in a later stage, or branch off from a trunk, there is no report before that."""
    spec = plan.first
    start = _start(plan)
    return [n for n in _wanted(scheduler, spec.images) if start < n < spec.images] + [spec.images]


def _start(plan: Plan) -> int:
    """Images per student before which there is no ensemble of one-step students."""
    return max(plan.first.begins, *shareable(plan)[-1:], 0)


def _wanted(scheduler: SchedulerConfig, images: int) -> list[int]:
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
    """Images per student at which the stages end that prepare generators (TSM). These stages depend on partition
    and size alone; later stages may differ between trials."""
    if plan.sampling != ONE_STEP and not plan.sampling.levels:
        return []
    spec = plan.first
    ends = accumulate(stage.images for stage in spec.stages.values())
    starts = []
    for name, end in zip(spec.stages, ends, strict=True):
        if spec.objective(name).needs.makes == "generator":
            break
        starts.append(end)
    return starts
