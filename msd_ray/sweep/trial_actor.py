"""The processes in which trials run. They import neither Optuna nor Tune's schedulers, so that they start sooner."""

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

from ray import tune

from msd_ray.cluster.connect import room_for
from msd_ray.cluster.idle_slots import IdleSlots
from msd_ray.cluster.places import Places
from msd_ray.cluster.pool.pool import BorrowedPool
from msd_ray.cluster.ray_slots import RaySlots
from msd_ray.cluster.slots import NoPool, TeacherReplicas
from msd_ray.errors import MsdRayError, Stopped, named
from msd_ray.evaluation import Judge
from msd_ray.sweep.stop_actor import StopAsked
from msd_ray.sweep.trial import Trial, TrialInputs
from msd_ray.training.device import prepare_device


class TrialWorker:
    """The process in which trials run, one after the other. It trains nothing itself: students train in slots, which
    are processes of their own. So a trial reserves no room and blocks no other."""

    def __init__(self, inputs: TrialInputs) -> None:
        self.inputs = inputs
        recipe_space = inputs.recipe_space
        config, alone = recipe_space.first.cluster, recipe_space.definition.trials.concurrent == 1
        self.device = prepare_device(recipe_space.definition.trials.gpus, recipe_space.first.training.threads)
        self.stopping: Callable[[], bool] = StopAsked(inputs.stop_actor)
        self.pool: TeacherReplicas = NoPool()
        if inputs.replicas:
            self.pool = BorrowedPool(inputs.replicas, recipe_space.first.cluster.pool.silence_seconds)
        self.places, self._idle = Places(), IdleSlots()
        self.slots = RaySlots(
            config.cpus_per_student,
            config.gpus_per_student,
            lambda: room_for(inputs.slots, config),
            idle=self._idle if alone else None,  # idle slots would be in the way of another trial's students
        )

    def close(self) -> None:
        """Ends all slots."""
        self.slots.close()
        self._idle.close()

    @cached_property
    def judge(self) -> Judge:
        recipe_space = self.inputs.recipe_space
        return Judge(
            recipe_space.features, recipe_space.data.train, recipe_space.first.evaluation, self.inputs.features.copy()
        )


class TuneTrial(tune.Trainable):
    """Each step trains a trial to its next report. Errors are reported, too, not raised: Tune would try again."""

    def setup(self, config: dict[str, Any], inputs: TrialInputs | None = None) -> None:
        assert inputs, "Tune brings what trials share"
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # its advice is followed already
        self._place = TrialWorker(inputs)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._number, self._choice, self._reported = config["number"], config["choice"], config["reported"]
        self._trial: Trial | None = None

    def step(self) -> dict[str, Any]:
        try:
            report = self._opened().advance(self._reported)
        except Stopped:
            return {"number": self._number, "stopped": True}
        except MsdRayError as error:
            return {"number": self._number, "error": str(error)}
        except Exception as error:  # an error of one trial must not end the others
            logging.getLogger(__name__).exception("trial %d", self._number)
            return {"number": self._number, "error": named(error)}
        self._reported = report.images
        return {"number": self._number, "report": vars(report)}

    def cleanup(self) -> None:
        self._place.close()

    def _opened(self) -> Trial:
        recipe = self._place.inputs.recipe_space.recipe(self._number, self._choice)
        self._trial = self._trial or Trial(self._number, recipe, self._place)
        return self._trial
