"""The Pareto front of a sweep's trials, and the best of them under limits."""

import math
from collections.abc import Mapping, Sequence

from msd_ray.errors import UserError
from msd_ray.sweep.sweep_journal import TrialRecord
from msd_ray.sweep.trial_metrics import METRICS, Mode

MetricLimits = Mapping[str, float]
"""By metric, the highest value allowed (the lowest, if more is better)."""


def pareto_front(records: Sequence[TrialRecord], metrics: Mapping[str, Mode]) -> list[TrialRecord]:
    """The trials that no other beats, that is, no other is at least as good in every metric and better in one. Sorted
    by the first metric, best first; trials that are equal in all metrics are all on the front."""
    measured = [(record, costs) for record in records if (costs := _costs(record, metrics)) is not None]
    on_it = [r for r, costs in measured if not any(_beats(other, costs) for _, other in measured)]
    return sorted(on_it, key=lambda record: (_costs(record, metrics), record.number))


def best(records: Sequence[TrialRecord], metrics: Mapping[str, Mode], limits: MetricLimits) -> TrialRecord:
    """Of the trials within the limits the one nearest to the best value of each metric at once, each metric being
    scaled from 0 (the best on their front) to 1 (the worst there). With one metric: simply its best.

    Raises UserError if no trial is within the limits.
    """
    allowed = [r for r in records if r.result and all(_within(r, metric, limit) for metric, limit in limits.items())]
    on_it = pareto_front(allowed, metrics)
    if not on_it:
        given = ", ".join(f"{metric} {limit:g}" for metric, limit in limits.items())
        raise UserError(f"no trial is within the limits ({given})" if given else "no trial has finished yet")
    columns = list(zip(*(_costs(r, metrics) or () for r in on_it), strict=True))
    scales = [(min(column), max(column)) for column in columns]

    def distance(record: TrialRecord) -> float:
        costs = _costs(record, metrics) or ()
        return math.hypot(*((c - low) / (high - low or 1.0) for c, (low, high) in zip(costs, scales, strict=True)))

    return min(on_it, key=lambda record: (distance(record), record.number))


def _costs(record: TrialRecord, metrics: Mapping[str, Mode]) -> tuple[float, ...] | None:
    """The trial's figures, with signs such that less is better; None if one is unknown."""
    if record.result is None:
        return None
    values = {metric: getattr(record.result, metric) for metric in metrics}
    if any(value is None or not math.isfinite(value) for value in values.values()):
        return None
    return tuple(values[metric] if mode == "min" else -values[metric] for metric, mode in metrics.items())


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _within(record: TrialRecord, metric: str, limit: float) -> bool:
    value = getattr(record.result, metric)
    return value is not None and (value <= limit if METRICS[metric] == "min" else value >= limit)
