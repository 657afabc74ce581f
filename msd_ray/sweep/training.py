"""One trial: its students trained from milestone to milestone on the sweep's cluster, and measured at each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from msd_ray.cluster.board import Board
from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.pairs import make_pairs
from msd_ray.cluster.places import Places
from msd_ray.cluster.ray_slots import RaySlots
from msd_ray.cluster.status import Status
from msd_ray.cluster.students import StudentTask, Surroundings
from msd_ray.cluster.support import Support
from msd_ray.cluster.work import Work
from msd_ray.data import Samples
from msd_ray.ensemble import Ensemble
from msd_ray.errors import Stopped, TrainingError
from msd_ray.evaluation import Judge
from msd_ray.recipes import Recipe
from msd_ray.runs.clocks import Clock
from msd_ray.runs.curves import curves
from msd_ray.runs.directory import assemble, folder, images_of, keep_recipe
from msd_ray.runs.plan import Job, Plan
from msd_ray.storage import Store
from msd_ray.sweep.family import Family
from msd_ray.sweep.measure import judged, speed_of, training_flops
from msd_ray.sweep.metrics import Report
from msd_ray.sweep.pace import milestones, shareable
from msd_ray.sweep.pictures import picture
from msd_ray.sweep.sharing import adopt, publish, shared_folder

PICTURE = "samples.png"


class Silent:
    """A Listener that says nothing: the sweep's driver speaks for all trials."""

    def note(self, line: str) -> None:
        """Nothing."""

    def watch(self, statuses: list[Status]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Premises:
    """What all trials of a sweep share. store: the sweep's directory. replicas: of the teacher pool. features: of the
    real samples, [N, d]. slots: that a trial may have. sign: an actor, see `StopSign`."""

    family: Family
    store: Store
    cache: Store
    replicas: list[Any]
    features: Any
    slots: int
    sign: Any


class Means(Protocol):
    """What the process of a trial has at hand for all trials that it runs."""

    premises: Premises
    slots: RaySlots
    places: Places
    pool: Support
    device: torch.device
    stopping: Callable[[], bool]

    @property
    def judge(self) -> Judge: ...


class Trial:
    """A trial in a process that gives it its means. It goes on from whatever its directory holds."""

    def __init__(self, number: int, recipe: Recipe, means: Means) -> None:
        self._means, self._recipe = means, recipe
        self._plan: Plan = means.premises.family.plan(recipe)
        self._store = folder(means.premises.store, f"trials/{number:04d}")
        keep_recipe(self._store, self._plan.recipe)
        self._board = Board(self._store, recipe.cluster.price, Silent(), [], means.stopping)
        scheduler = means.premises.family.definition.scheduler
        self._milestones = milestones(scheduler, self._plan)
        self._speed: Any = None
        self._flops: Any = None

    def advance(self, reported: int) -> Report:
        """Trains to the first milestone after `reported` images per student, and measures. Raises TrainingError where a
        student fails or the ensemble cannot be measured, Stopped where the sweep is to end now."""
        until = next(m for m in self._milestones if m > reported)
        for end in shareable(self._plan):
            if reported < end < until:
                self._share(end)
        self._train(until)
        group = self._plan.groups[0]
        assemble(self._store, self._plan, group, until)
        return self._measure(Ensemble.load(folder(self._store, group.directory), self._means.device), until)

    def _share(self, end: int) -> None:
        """Brings the students to the end of a stage that other trials may have trained already."""
        shared = shared_folder(self._means.premises.store.child("shared"), self._plan, end)
        if self._behind(end) and not adopt(self._store, self._plan, end, shared):
            self._train(end)
            publish(self._store, self._plan, end, shared)

    def _behind(self, images: int) -> list[Job]:
        """The students that have not come so far."""
        return [job for job in self._plan.groups[0].jobs if images_of(self._store, job) < images]

    def _train(self, until: int) -> None:
        jobs = self._behind(until)
        if not jobs:
            return
        around, segment = self._surroundings(jobs), self._recipe.training.checkpoint_every
        work = [Work(job.name, until, segment, self._task(job, around, until)) for job in jobs]
        config = self._plan.cluster
        terms = Terms(config.policy, self._means.premises.slots, config.max_failures, config.silence_seconds)
        self._board.begin()
        means = self._means
        statuses = Driver(work, means.slots, terms, self._board, means.pool, means.places).run(means.stopping)
        self._board.write()
        if self._means.stopping():
            raise Stopped("the sweep is stopped", 1)
        if failed := [s for s in statuses if s.state == "failed"]:
            raise TrainingError("; ".join(f"{s.name}: {s.error}" for s in failed))

    def _task(self, job: Job, around: Surroundings, until: int) -> StudentTask:
        return StudentTask(job.spec, folder(self._store, job.directory), around, until)

    def _surroundings(self, jobs: list[Job]) -> Surroundings:
        recipe, premises, cluster = self._recipe, self._means.premises, self._plan.cluster
        teacher = premises.store.child("teacher")
        return Surroundings(
            recipe.data,
            recipe.evaluation,
            premises.cache,
            teacher,
            cluster.pool if cluster.teacher == "pool" else None,
            cluster.gpus_per_student,
            make_pairs(self._plan, jobs, self._means.pool, teacher, premises.cache, Silent().note),
            recipe.init,
        )

    def _measure(self, ensemble: Ensemble, images: int) -> Report:
        means, plan, config = self._means, self._plan, self._recipe
        clock = Clock(means.device, config.training.threads)
        self._speed = self._speed or speed_of(ensemble, clock, config.evaluation.batch)
        self._flops = self._flops or training_flops(plan, float(means.device.type == "cuda"))
        logged, data = curves(self._store, plan), means.premises.family.data
        report, samples = judged(means.judge, data, plan, ensemble, logged, images, self._speed, self._flops)
        self._refuse_unmeasured(report)
        self._store.write(PICTURE, self._picture(samples))
        return report

    def _picture(self, samples: Samples) -> bytes:
        return picture(samples, len(self._plan.labels))

    def _refuse_unmeasured(self, report: Report) -> None:
        definition = self._means.premises.family.definition
        for metric in {*definition.metrics, definition.scheduler.metric}:
            if getattr(report, metric) is None:
                raise TrainingError(f"its {metric} cannot be measured: samples that are not finite, or no such figure")
