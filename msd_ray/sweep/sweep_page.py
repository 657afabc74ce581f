"""The report of a sweep: one HTML file that needs no network."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from msd_ray.sweep.definition import Definition
from msd_ray.sweep.recipe_space import said
from msd_ray.sweep.sweep_journal import TrialRecord
from msd_ray.sweep.trial_metrics import METRICS


@dataclass(frozen=True)
class Page:
    """What the report shows. dimensions: of the space. front: the numbers of the trials on it. pictures: by trial, a
    PNG of its samples, empty where there is none."""

    definition: Definition
    dimensions: Sequence[str]
    records: Sequence[TrialRecord]
    front: set[int]
    pictures: Mapping[int, bytes]


def render(page: Page) -> str:
    """The report as HTML."""
    pages = Environment(
        loader=ChoiceLoader([PackageLoader("msd_ray.sweep"), PackageLoader("msd_ray.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template("sweep.html.j2").render(
        title=f"Sweep {page.definition.name}",
        notes=_notes(page),
        failures=[(r.number, said(r.choice), r.reason) for r in page.records if r.state == "failed"],
        data=_data(page),
        pictures=[
            (r.number, said(r.choice), r.number in page.front, _data_uri(page.pictures[r.number]))
            for r in page.records
            if page.pictures.get(r.number)
        ],
        definition=yaml.safe_dump(page.definition.to_json(), sort_keys=False, allow_unicode=True),
    )


def _notes(page: Page) -> list[str]:
    states = Counter(r.state for r in page.records)
    goals = ", ".join(f"{metric} ({mode})" for metric, mode in page.definition.metrics.items())
    counted = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    return [
        f"{len(page.records)} trials: {counted}. {len(page.front)} of them are on the front of {goals}.",
        "Latency is measured on the machine and device that a trial was measured on; on a CPU it is the time that the "
        "process computes. Training costs are those that a trial would have had alone, without sharing anything.",
    ]


def _data(page: Page) -> dict[str, Any]:
    """What the page's script draws: a row per trial that has a report, as it was last measured."""
    rows = [_row(record, record.number in page.front) for record in page.records if record.reports]
    known = [metric for metric in METRICS if any(row[metric] is not None for row in rows)]
    columns = ["trial", *page.dimensions, "state", "images", *known]
    return {
        "rows": rows,
        "columns": columns,
        "axes": [*page.dimensions, *page.definition.metrics],
        "metrics": known,
        "goals": list(page.definition.metrics),
        "modes": {**METRICS, **page.definition.metrics},
    }


def _row(record: TrialRecord, on_front: bool) -> dict[str, Any]:
    return {
        **asdict(record.reports[-1]),
        **record.choice,
        "trial": record.number,
        "state": record.state,
        "front": on_front,
        "said": said(record.choice),
    }


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
