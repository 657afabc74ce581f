"""A sweep as Ray Tune sees it: a searcher, a scheduler and a trainable, which do little but ask the steering."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from msd_ray.cluster.connect import room_for
from msd_ray.cluster.driver import NoPool, Support
from msd_ray.cluster.pool.pool import BorrowedPool
from msd_ray.cluster.ray_slots import RaySlots
from msd_ray.errors import MsdRayError
from msd_ray.evaluation import Judge
from msd_ray.sweep.steering import Steering
from msd_ray.sweep.training import Premises, Trial
from msd_ray.training.device import prepare_device

EVERY = 1.0
"""Seconds between two rounds of chores."""
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class Workplace:
    """The process in which trials run, one after the other. It trains nothing itself: students do so in slots, which
    are processes of their own, so that a trial needs no room and holds up no other."""

    def __init__(self, premises: Premises) -> None:
        self.premises = premises
        family = premises.family
        config = family.first.cluster
        self.device = prepare_device(family.definition.trials.gpus, family.first.training.threads)
        self.pool: Support = BorrowedPool(premises.replicas) if premises.replicas else NoPool()
        self.slots = RaySlots(
            config.cpus_per_student, config.gpus_per_student, lambda: room_for(premises.slots, config), lasting=True
        )

    @cached_property
    def judge(self) -> Judge:
        family = self.premises.family
        return Judge(family.features, family.data.train, family.first.evaluation, self.premises.features.copy())


class TuneTrial(tune.Trainable):
    """Each step trains a trial to its next report. What goes wrong in it is reported as well: Tune would try again."""

    def setup(self, config: dict[str, Any], premises: Premises | None = None) -> None:
        assert premises, "Tune brings what trials share"
        self._place = Workplace(premises)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self._place.premises.family.definition.trials.concurrent > 1:
            self._place.slots.close()  # another trial may wait for this one's slots
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._number, self._choice, self._reported = config["number"], config["choice"], config["reported"]
        self._trial: Trial | None = None

    def step(self) -> dict[str, Any]:
        try:
            report = self._opened().advance(self._reported)
        except MsdRayError as error:
            return {"number": self._number, "error": str(error)}
        except Exception as error:  # a fault of one trial, which is not to end the others
            logging.getLogger(__name__).exception("trial %d", self._number)
            return {"number": self._number, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        self._reported = report.images
        return {"number": self._number, "report": vars(report)}

    def cleanup(self) -> None:
        self._place.slots.close()

    def _opened(self) -> Trial:
        recipe = self._place.premises.family.recipe(self._number, self._choice)
        self._trial = self._trial or Trial(self._number, recipe, self._place)
        return self._trial


class _NotKept:
    """Tune pickles whatever steers it, to go on from; we go on from the ledger."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Suggesting(_NotKept, Searcher):
    """Hands out the steering's trials."""

    def __init__(self, steering: Steering) -> None:
        super().__init__()
        self._steering = steering

    def suggest(self, trial_id: str) -> Any:
        record = self._steering.next()
        if record is None:
            return Searcher.FINISHED
        return {"number": record.number, "choice": record.choice, "reported": record.images}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The steering knows already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `_NotKept`."""


class Judging(_NotKept, FIFOScheduler):
    """Passes on what trials report, and what the steering makes of it."""

    def __init__(self, steering: Steering) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steering = steering

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        sent = {name.removeprefix("report/"): value for name, value in result.items()}
        return str(TrialScheduler.CONTINUE if self._steering.goes_on(sent["number"], sent) else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._steering.died(trial.config["number"])


class Chores(_NotKept, tune.Callback):
    """What the sweep's driver does now and then."""

    def __init__(self, chores: Sequence[Callable[[], None]]) -> None:
        self._chores, self._done = chores, 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._done > EVERY:
            self._done = time.monotonic()
            for chore in self._chores:
                chore()


def run_trials(steering: Steering, premises: Premises, chores: Sequence[Callable[[], None]]) -> None:
    """Runs trials until the steering has no more, or somebody presses Ctrl-C. What `chores` raise ends it.

    Tune keeps nothing: where the sweep stands is in its ledger, where a trial stands in its run directory.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would tell how to resume its own way
    config = premises.family.definition.trials
    resources = {"CPU": config.cpus, "GPU": config.gpus, "memory": 1}  # Tune wants some; a byte is on every node
    with tempfile.TemporaryDirectory() as scratch:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(TuneTrial, premises=premises), tune.PlacementGroupFactory([resources])
            ),
            tune_config=tune.TuneConfig(
                search_alg=Suggesting(steering),
                scheduler=Judging(steering),
                num_samples=-1,
                max_concurrent_trials=config.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=config.max_failures),
                callbacks=[Chores(chores)],
            ),
        ).fit()
