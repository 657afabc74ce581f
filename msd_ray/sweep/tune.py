"""A sweep as Ray Tune sees it: a searcher, a scheduler and a callback, which only call the controller."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune import TuneError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from msd_ray.errors import MsdRayError
from msd_ray.stopping import STOP
from msd_ray.sweep.controller import SweepController
from msd_ray.sweep.trial import TrialInputs
from msd_ray.sweep.trial_actor import TuneTrial

EVERY = 1.0
"""Seconds between two rounds of chores."""
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class _NotKept:
    """Tune pickles its searcher and scheduler to resume from; a sweep resumes from its journal instead."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Suggesting(_NotKept, Searcher):
    """Hands out the controller's trials."""

    def __init__(self, controller: SweepController) -> None:
        super().__init__()
        self._controller = controller

    def suggest(self, trial_id: str) -> Any:
        if STOP.asked:
            return Searcher.FINISHED
        record = self._controller.next()
        if record is None:
            return Searcher.FINISHED if self._controller.settled else None
        return {"number": record.number, "choice": record.choice, "reported": record.images}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the controller knows already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `_NotKept`."""


class Judging(_NotKept, FIFOScheduler):
    """Passes trials' reports to the controller, and its decisions to Tune. fault: the controller's error, if any; Tune
    itself passes on no more than a traceback."""

    def __init__(self, controller: SweepController) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._controller = controller
        self.fault: MsdRayError | None = None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        sent = {name.removeprefix("report/"): value for name, value in result.items()}
        try:
            goes_on = self._controller.goes_on(sent["number"], sent)
        except MsdRayError as error:
            self.fault = error
            raise
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._controller.died(trial.config["number"])


class Chores(_NotKept, tune.Callback):
    """Calls the driver's regular chores."""

    def __init__(self, chores: Sequence[Callable[[], None]]) -> None:
        self._chores, self._done = chores, 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._done > EVERY:
            self._done = time.monotonic()
            for chore in self._chores:
                chore()


def run_trials(controller: SweepController, inputs: TrialInputs, chores: Sequence[Callable[[], None]]) -> None:
    """Runs trials until the controller has no more, or this process is told to stop. An error of the controller or of a
    chore ends it.

    Tune keeps no state: the sweep's is in its journal, a trial's in its run directory.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would print how to resume Tune's own way
    judging = Judging(controller)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _tuner(controller, judging, inputs, Chores(chores), scratch).fit()
        except TuneError:
            if judging.fault is None:
                raise
            raise judging.fault from None


def _tuner(
    controller: SweepController, judging: Judging, inputs: TrialInputs, chores: Chores, scratch: str
) -> tune.Tuner:
    config = inputs.recipe_space.definition.trials
    resources = {"CPU": config.cpus, "GPU": config.gpus, "memory": 1}  # Tune demands one; every node has a byte
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(TuneTrial, inputs=inputs), tune.PlacementGroupFactory([resources])),
        tune_config=tune.TuneConfig(
            search_alg=Suggesting(controller),
            scheduler=judging,
            num_samples=-1,
            max_concurrent_trials=config.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=scratch,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),  # Tune's own miss deaths between trials
            callbacks=[chores],
        ),
    )
