"""Which images a run's students skipped, since they are broken."""

from msd_ray.runs.curves import logged
from msd_ray.runs.run_context import RunContext
from msd_ray.training.metrics import BROKEN_IMAGE

NAMED = 20
"""That a note names."""


def broken_images(context: RunContext) -> str:
    """How many, and which; empty where there are none."""
    metrics = (metric for student in context.plan.students for metric in logged(context.store, student))
    found = sorted({int(metric.value) for metric in metrics if metric.name == BROKEN_IMAGE})
    if not found:
        return ""
    rows = context.data.train.rows
    name = getattr(rows, "name", str)
    named = ", ".join([*map(name, found[:NAMED]), *(["..."] if len(found) > NAMED else [])])
    return f"{len(found)} of {len(rows)} training images are broken and were skipped: {named}"
