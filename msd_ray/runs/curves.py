"""What students logged; apart from the directory itself, so that their processes need not load pandas."""

import pandas as pd

from msd_ray.runs.plan import Plan, StudentPlan
from msd_ray.runs.run_directory import checkpoints_of
from msd_ray.storage import Store
from msd_ray.training.metrics import Metric
from msd_ray.training.records import Records


def curves(store: Store, plan: Plan) -> pd.DataFrame:
    """What all students logged so far, in long format: student, stage, nimg, name, value."""
    rows = [
        (student.name, m.stage, m.nimg, m.name, m.value) for student in plan.students for m in logged(store, student)
    ]
    return pd.DataFrame(rows, columns=["student", "stage", "nimg", "name", "value"])


def logged(store: Store, student: StudentPlan) -> list[Metric]:
    """What the student logged up to its newest checkpoint."""
    checkpoints = checkpoints_of(store, student)
    newest = checkpoints.newest()
    if newest is None:
        return []
    # an older program's checkpoint holds all that was logged before it, others nothing
    return Records(checkpoints.store).until(newest.nimg) or [Metric(*row) for row in newest.meta().get("metrics", [])]
