"""A student that several workers train together, under Ray Train, as its slot sees it."""

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import remove_placement_group

from msd_ray.cluster.connect import workers_for, workers_in
from msd_ray.cluster.progress import Progress
from msd_ray.cluster.ray_private import abandoned_groups
from msd_ray.cluster.ray_train.exchange import Exchange
from msd_ray.cluster.ray_train.workers import share
from msd_ray.cluster.students import StudentTask
from msd_ray.errors import MsdRayError, TrainingError, named, one_line
from msd_ray.recipes import ClusterConfig
from msd_ray.training.checkpoints import Checkpoints


def release_abandoned() -> None:
    """Removes the placement groups of this job that were made by an actor which is dead.

    These are of Ray Train's controllers, which die with the slot that began them, and their workers with them. Ray
    keeps the groups until the job ends, and goes on to create one that had to wait; Ray Train itself frees only those
    whose workers had begun, and not without a dashboard.
    """
    for group in abandoned_groups():
        remove_placement_group(group)


LOG = logging.getLogger(__name__)
LOOK = 1.0
"""Seconds between two checks whether the segment must end early, and whether there is room for workers."""
SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the recipe's relative paths are of the directory that slots are in
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor that nobody would ask
}
"""Ray Train's settings in the environment."""
RESIZE = 10.0
"""Seconds between two of Ray Train's checks whether more or fewer workers fit."""


@dataclass(frozen=True)
class SharedTask:
    """A student for several workers. number: of the task, as the driver counts. students: how many such can train at
    the same time."""

    task: StudentTask
    cluster: ClusterConfig
    number: int
    students: int

    def open(self, known: int = 0) -> "SharedTraining":
        return SharedTraining(self, self.saved(known))

    def saved(self, known: int = 0) -> Progress:
        """The progress of the newest checkpoint, or where it begins."""
        spec = self.task.spec
        newest = Checkpoints(self.task.checkpoints, spec.training.keep).newest(spec.of_its_own(known))
        nimg, stage = (newest.nimg, newest.stage) if newest else (spec.begins, "")
        return Progress(nimg, stage, 0.0, nimg >= spec.images, begin=nimg)


class SharedTraining:
    """Its workers stay from its first segment to its last, unless another student comes between."""

    bytes, device = 0, torch.device("cpu")  # in the slot's process there is nothing of the student

    def __init__(self, shared: SharedTask, progress: Progress) -> None:
        """progress: of its newest checkpoint."""
        self._shared, self._exchange = shared, Exchange(progress)
        self._thread = threading.Thread()
        self._most = self._looks = 0

    @property
    def exchange(self) -> Exchange:
        return self._exchange

    @property
    def nimg(self) -> int:
        return self._exchange.progress.nimg

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        """As any training. Raises TrainingError if the workers cannot go on."""
        if not images:  # the checkpoint is to be whole: the workers write it before they go
            self.rest()
            return self._shared.saved()
        if self._exchange.over or self._fitting() != self._most:
            self.rest()  # the workers are about to end, or Ray Train has to be begun anew to take other limits
        self._exchange.order(images, replicas)
        if not self._thread.is_alive() and not self._exchange.over:
            self._start()
        while (progress := self._exchange.wait(LOOK)) is None:
            if hurried():
                self._exchange.close()
        if progress.done:
            self.rest()
        return progress

    def current_progress(self) -> Progress:
        """Also while there is no room for workers it is alive."""
        return replace(self._exchange.live, beats=self._looks)

    def rest(self) -> None:
        """Ends the workers and waits until they have ended."""
        self._exchange.close()
        if self._thread.is_alive():
            self._thread.join()

    def _fitting(self) -> int:
        """The most workers there may be, on the cluster as it is."""
        return workers_for(self._shared.students, self._shared.cluster, ray.cluster_resources())  # type: ignore[no-untyped-call]

    def _start(self) -> None:
        slot = ray.get_runtime_context().current_actor  # the thread is no actor's
        self._thread = threading.Thread(target=self._run, args=(slot,), daemon=True)
        self._thread.start()

    def _run(self, slot: Any) -> None:
        try:
            self._see_through(slot)
        except MsdRayError as error:
            self._exchange.end(one_line(error))
        except Exception as error:  # says nothing of the student
            self._exchange.end(named(error), final=False)
        else:
            self._exchange.end()

    def _see_through(self, slot: Any) -> None:
        """Runs workers until the student is done or must rest. Ray Train replaces dead ones itself; if it gives up, it
        is started again as long as there is progress."""
        failures, reason = 0, ""
        while failures <= self._shared.cluster.max_failures and self._awaited_room():
            nimg, self._most = self.nimg, self._fitting()
            try:
                self._fit(slot)
                return
            except TrainingFailedError as error:
                reason, failures = _reason(error), failures + 1 if self.nimg == nimg else 0
                LOG.warning("student %d: %s; its workers are started again", self._shared.task.spec.index, reason)
        if not self._exchange.over:
            raise TrainingError(f"its workers failed {failures} times in a row without progress: {reason}")

    def _awaited_room(self) -> bool:
        """Waits until the fewest workers fit on the cluster; whether they are still wanted."""
        cluster, fewest = self._shared.cluster, self._shared.cluster.workers_per_student[0]
        while not self._exchange.over:
            self._looks += 1
            release_abandoned()
            if workers_in(ray.available_resources(), cluster, fewest) >= fewest:  # type: ignore[no-untyped-call]
                return True
            time.sleep(LOOK)
        return False

    def _fit(self, slot: Any) -> None:
        """Returns when the workers have ended by themselves; raises TrainingFailedError if they failed."""
        os.environ |= SETTINGS
        with tempfile.TemporaryDirectory() as folder:  # for Ray Train's own notes; the checkpoints are elsewhere
            trainer = TorchTrainer(
                share,
                train_loop_config={"task": self._shared.task, "number": self._shared.number, "slot": slot},
                torch_config=TorchConfig(backend="nccl" if self._shared.cluster.gpus_per_student >= 1 else "gloo"),
                scaling_config=self._scaling(),
                run_config=self._run_config(folder),
            )
            trainer.fit()

    # What mypy is told to ignore is in Ray Train 2, which it takes for the first.

    def _scaling(self) -> ScalingConfig:
        cluster = self._shared.cluster
        fewest = cluster.workers_per_student[0]
        workers: Any = fewest if fewest == self._most else (fewest, self._most)
        return ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers,
            elastic_resize_monitor_interval_s=RESIZE,
            use_gpu=cluster.gpus_per_student > 0,
            resources_per_worker={"CPU": cluster.cpus_per_student, "GPU": cluster.gpus_per_student},
        )

    def _run_config(self, folder: str) -> RunConfig:
        failures = self._shared.cluster.max_failures
        return RunConfig(  # type: ignore[call-arg]
            name=f"student-{self._shared.task.spec.index}",
            storage_path=folder,
            failure_config=FailureConfig(failures, controller_failure_limit=0),  # type: ignore[call-arg]
            logging_config=LoggingConfig(log_level="CRITICAL"),
            worker_runtime_env={"env_vars": _loopback()},
        )


def _loopback() -> dict[str, str]:
    """The environment that keeps gloo on the loopback interface, if the cluster is there."""
    if ray.util.get_node_ip_address() != "127.0.0.1":  # type: ignore[no-untyped-call]
        return {}
    return {"GLOO_SOCKET_IFNAME": next(name for _, name in socket.if_nameindex() if name.startswith("lo"))}


def _reason(error: TrainingFailedError) -> str:
    """The error of the first failed worker, in one line."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, failure = min(error.worker_failures.items())
        return f"worker {rank}: {named(failure)}"
    return one_line(error)
