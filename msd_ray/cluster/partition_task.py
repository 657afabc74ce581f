"""The task of learning how to divide the conditions once the trunk is trained, and that in the process of a slot."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.students import RunInputs, StudentTask, StudentTraining, student_task
from msd_ray.cluster.work import ScheduledTask, SingleProcess
from msd_ray.conditions import PartitionConfig
from msd_ray.conditions.fit import learned
from msd_ray.errors import TrainingError
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_directory import kept_partition, write_partition
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.condition_gradients import batches_of_each, condition_gradient
from msd_ray.training.state import State

NAME = "partition"


@dataclass(frozen=True)
class PartitionTask:
    """trunk: by whose loss conditions are compared. kept: where the gradients measured so far lie."""

    trunk: StudentTask
    config: PartitionConfig
    kept: Store

    def open(self, known: int = 0) -> "PartitionTraining":
        """Raises TrainingError where the trunk is not trained to its end."""
        trunk = self.trunk.open(self.trunk.spec.images)
        if not trunk.done:
            raise TrainingError("the trunk's checkpoint cannot be read; the same command trains the trunk again")
        kept = Checkpoints(self.kept, keep=1)
        state = kept.latest(known)
        gradients = list(state.tensors["gradients"]["gradients"]) if state else []
        return PartitionTraining(trunk, self.trunk.home, self.config, kept, gradients)


def with_partition(work: Sequence[ScheduledTask], store: Store, plan: Plan, inputs: RunInputs) -> list[ScheduledTask]:
    """The work with that of learning the partition before what branches off from the trunk. store: the run's."""
    ensemble = plan.ensembles[0]
    branches = [w.name for w in work if w.name in [student.name for student in ensemble.students]]
    last = ensemble.trunks[-1].name
    after = next((i for i, w in enumerate(work) if w.name == last), None)
    learning = replace(learning_task(store, plan, inputs), after=after, trunk=last)
    return [*(replace(w, after=len(work), trunk=NAME) if w.name in branches else w for w in work), learning]


def learning_task(store: Store, plan: Plan, inputs: RunInputs) -> ScheduledTask:
    """Of learning the partition where the trunk is trained."""
    trunk = plan.ensembles[0].trunks[-1]
    count, size = batches_of_each(trunk.spec)
    task = PartitionTask(student_task(store, trunk, inputs), plan.recipe.partition, store.child("partition-learning"))
    return ScheduledTask(NAME, plan.conditions.n * count * size, plan.recipe.training.checkpoint_every, task)


@dataclass
class PartitionTraining(SingleProcess):
    """Measures one condition after the other; when all are done it writes the partition. gradients: of each condition
    so far, as `condition_gradient` gives them."""

    trunk: StudentTraining
    home: Store
    config: PartitionConfig
    kept: Checkpoints
    gradients: list[Tensor]
    began: tuple[int, float] | None = None

    @property
    def nimg(self) -> int:
        """Samples of which gradients were taken."""
        count, size = batches_of_each(self.trunk.trainer.spec)
        return len(self.gradients) * count * size

    @property
    def bytes(self) -> int:
        return self.trunk.bytes

    @property
    def device(self) -> torch.device:
        return self.trunk.device

    @property
    def done(self) -> bool:
        return len(self.gradients) == self.trunk.trainer.owned.conditions.n

    def current_progress(self) -> Progress:
        return Progress.within(self.nimg, NAME, self.done, float("nan"), self.began, self.kept.pieces)

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        trunk = self.trunk
        if trunk.pool:
            trunk.pool.use(replicas)
        begin, start = self.began = self.nimg, time.perf_counter()
        assert trunk.real is not None
        while not self.done and self.nimg < begin + images and not hurried():
            self.gradients.append(condition_gradient(trunk.trainer, trunk.real, len(self.gradients)))
        rate = (self.nimg - begin) / (time.perf_counter() - start)
        if self.nimg > begin:
            self.kept.save(State({"gradients": {"gradients": torch.stack(self.gradients)}}, self._meta()))
        if self.done:
            borders = kept_partition(self.home).borders
            write_partition(self.home, learned(torch.stack(self.gradients).numpy(), self.config, borders))
        return Progress(self.nimg, NAME, rate, self.done, begin=begin)

    def rest(self) -> None:
        self.trunk.rest()

    def _meta(self) -> dict[str, Any]:
        return {"nimg": self.nimg, "stage": NAME}
