"""What students logged; apart from the directory itself, so that their processes need not load pandas."""

from typing import Any

import pandas as pd

from msd_ray.runs.directory import checkpoint_of
from msd_ray.runs.plan import Plan
from msd_ray.storage import Store


def curves(store: Store, plan: Plan) -> pd.DataFrame:
    """What all students logged so far, in long format: student, stage, nimg, name, value."""
    rows: list[Any] = []
    for job in plan.jobs:
        state = checkpoint_of(store, job)
        rows += [(job.name, *row) for row in (state.meta["metrics"] if state else [])]
    return pd.DataFrame(rows, columns=["student", "stage", "nimg", "name", "value"])
