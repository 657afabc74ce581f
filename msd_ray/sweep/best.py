"""The best trial of a sweep, and its front, for the command line."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from msd_ray.errors import UserError
from msd_ray.storage import Store
from msd_ray.sweep.pareto import MetricLimits, best
from msd_ray.sweep.recipe_space import said
from msd_ray.sweep.sweep_directory import FILE, read_definition, trial_store
from msd_ray.sweep.sweep_journal import SweepJournal, TrialRecord
from msd_ray.sweep.trial_metrics import METRICS, Mode, metric_named

SWEEPS = "runs/sweeps"
SHOWN = ("fid", "latency_ms", "batch_latency_ms", "parameters", "active_parameters", "total_images", "cpu_seconds")


@dataclass(frozen=True)
class Found:
    """A trial. recipe: every value spelled out. run: its directory."""

    record: TrialRecord
    recipe: dict[str, Any]
    run: Store

    @property
    def ensemble(self) -> str:
        """The ensemble's URI; empty if it was pruned."""
        return self.run.child("ensemble").uri if self.record.kept else ""

    def to_json(self) -> dict[str, Any]:
        return {**described(self.record), "recipe": self.recipe, "ensemble": self.ensemble or None}

    def lines(self) -> list[str]:
        pruned = f"none: it was pruned; msd-ray train {self.run.uri}/recipe.json makes it again"
        figures = ", ".join(f"{metric} {value}" for metric, value in zip(SHOWN, _figures(self.record), strict=True))
        return [
            yaml.safe_dump(self.recipe, sort_keys=False).rstrip(),
            f"trial: {self.record.number} ({said(self.record.choice)}); {figures}",
            f"recipe: {self.run.uri}/recipe.json",
            f"ensemble: {self.ensemble or pruned}",
        ]


def find_best(sweep: str, objective: str, limits: MetricLimits) -> Found:
    """The best trial of the sweep in that directory by the metrics named. Raises UserError where there is no such sweep
    or metric, or no trial within the limits."""
    store = Store(sweep or _only_sweep())
    definition = read_definition(store)
    metrics = _metrics(objective) if objective else definition.metrics
    record = best(SweepJournal(store).records, metrics, limits)
    run = trial_store(store, record)
    return Found(record, json.loads(run.read("recipe.json")), run)


def described(record: TrialRecord) -> dict[str, Any]:
    """A trial and its last report, fit for JSON."""
    report = asdict(record.result) if record.result else None
    return {"trial": record.number, "choice": record.choice, "state": record.state, "report": report}


def front_rows(records: Sequence[TrialRecord]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the table that a sweep ends with."""
    dimensions = list(records[0].choice)
    rows = [
        [str(r.number), *(said({d: r.choice[d]}).partition("=")[2] for d in dimensions), *_figures(r)] for r in records
    ]
    return ["trial", *dimensions, *SHOWN], rows


def _figures(record: TrialRecord) -> list[str]:
    values = [getattr(record.result, metric) for metric in SHOWN]
    return ["-" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.3g}" for v in values]


def _metrics(objective: str) -> dict[str, Mode]:
    chosen = {}
    for name in objective.split(","):
        metric = metric_named(name.strip())
        if metric is None:
            raise UserError(f"no trial reports {name.strip()!r}, only {', '.join(METRICS)}")
        chosen[metric] = METRICS[metric]
    return chosen


def _only_sweep() -> str:
    """The directory of the one sweep that there is. Raises UserError where there is none, or several."""
    sweeps = Store(SWEEPS)
    found = [name for name in sweeps.names() if sweeps.child(name).exists(FILE)]
    if len(found) != 1:
        known = f"give one of {', '.join(f'{SWEEPS}/{name}' for name in found)}" if found else "none is in " + SWEEPS
        raise UserError(f"name a sweep's directory: {known}")
    return f"{SWEEPS}/{found[0]}"
