"""Sends the curves of a run to a tracker: from what its students keep beside their checkpoints, so that what a killed
process had logged and trains again is sent once."""

import time
from collections.abc import Callable, Iterator, Sequence

from msd_ray.runs.curves import logged
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_status import read_status
from msd_ray.runs.trackers import Tracker
from msd_ray.training.metrics import BROKEN_IMAGE, Metric

EVERY = 10.0
"""Seconds between two looks at a run that goes on."""


def track(context: RunContext, tracker: Tracker) -> int:
    """Sends what the tracker lacks; returns how many points."""
    sent = 0
    for student in context.plan.students:
        known = points(logged(context.store, student), student.spec.begins)
        fresh = [(curve, step, value) for curve, step, value in known if step > tracker.reached(student.name, curve)]
        if fresh:
            tracker.write(student.name, fresh)
        sent += len(fresh)
    return sent


def follow(context: RunContext, tracker: Tracker, tell: Callable[[str], None]) -> None:
    """Sends what comes until the run has finished or its driver is gone."""
    going = True
    while going:
        status = read_status(context.store)
        going = not (status.finished or status.stopped or status.stale)
        if sent := track(context, tracker):
            tell(f"{sent} points sent")
        if going:
            time.sleep(EVERY)


def points(metrics: Sequence[Metric], begin: int = 0) -> Iterator[tuple[str, int, float]]:
    """(curve, images, value), curves being named STAGE/VALUE; and images per second, from the seconds of each
    segment, the first of which began at `begin` images."""
    before = begin
    for m in metrics:
        if m.name != BROKEN_IMAGE:
            yield f"{m.stage}/{m.name.replace('@', '_at_')}", m.nimg, m.value  # MLflow takes no @
        if m.name == "wall_seconds":
            if m.value > 0 and m.nimg > before:
                yield f"{m.stage}/images_per_second", m.nimg, (m.nimg - before) / m.value
            before = m.nimg
