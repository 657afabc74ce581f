"""Early stopping by Ray Tune's schedulers, called outside of Tune so that finished trials can be replayed to them."""

from dataclasses import asdict
from typing import Any, NamedTuple

from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from msd_ray.sweep.definition import SchedulerConfig
from msd_ray.sweep.trial_metrics import METRICS, Report

RUNGS = 12
OTHERS = 3
"""The fewest trials for a median."""


class _TuneTrial(NamedTuple):
    """A trial, with the fields that Tune's schedulers read."""

    trial_id: str


class _LiveTrials:
    """Stands for Tune's controller, with no other trial for which one could be paused."""

    def get_live_trials(self) -> list[_TuneTrial]:
        return []


class EarlyStopping:
    """Decides after each report whether its trial is stopped."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._scheduler = _scheduler(config)

    def begin(self, number: int) -> None:
        """A new trial."""
        if self._scheduler:
            self._scheduler.on_trial_add(_LiveTrials(), _trial(number))

    def stops(self, number: int, report: Report) -> bool:
        """Whether the trial is stopped after this report. A trial's last report never stops it."""
        if self._scheduler is None:
            return False
        if report.final:
            self._scheduler.on_trial_complete(_LiveTrials(), _trial(number), asdict(report))
            return False
        decision = self._scheduler.on_trial_result(_LiveTrials(), _trial(number), asdict(report))
        return bool(decision == TrialScheduler.STOP)


def _trial(number: int) -> _TuneTrial:
    return _TuneTrial(str(number))


def _scheduler(config: SchedulerConfig) -> Any:
    said: dict[str, Any] = {"time_attr": "images", "metric": config.metric, "mode": METRICS[config.metric]}
    match config.kind:
        case "asha":
            most = config.first * config.factor**RUNGS
            return ASHAScheduler(
                **said, grace_period=config.first, reduction_factor=config.factor, max_t=most, brackets=1
            )
        case "median":
            return MedianStoppingRule(**said, grace_period=config.first, min_samples_required=OTHERS)
    return None
