"""One trial: its students trained from milestone to milestone on the sweep's cluster, and measured at each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.monitor import Monitor
from msd_ray.cluster.partition_task import learning_task
from msd_ray.cluster.places import Places
from msd_ray.cluster.pool.pair_making import make_pairs
from msd_ray.cluster.progress import StudentState
from msd_ray.cluster.ray_slots import RaySlots
from msd_ray.cluster.slots import TeacherReplicas
from msd_ray.cluster.students import RunInputs, StudentTask, student_task
from msd_ray.cluster.work import ScheduledTask
from msd_ray.codecs import load_codec
from msd_ray.data import Samples
from msd_ray.ensemble import Ensemble
from msd_ray.errors import Stopped, TrainingError
from msd_ray.evaluation import Judge
from msd_ray.profiling.clocks import Clock
from msd_ray.recipes import Recipe
from msd_ray.runs.curves import curves
from msd_ray.runs.learned_partition import still_to_learn
from msd_ray.runs.lease import held_in_turn
from msd_ray.runs.plan import Plan, StudentPlan
from msd_ray.runs.run_directory import assemble, folder, images_of, keep_partition, keep_recipe, with_learned
from msd_ray.runs.shared_trunks import adopt as adopt_trunk
from msd_ray.runs.shared_trunks import line_of
from msd_ray.runs.shared_trunks import publish as publish_trunk
from msd_ray.runs.teacher_cache import teacher_in
from msd_ray.storage import Store
from msd_ray.sweep.milestones import milestones, shareable
from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.shared_stages import adopt, publish, shared_folder
from msd_ray.sweep.trial_evaluation import judged, picture, speed_of, training_flops
from msd_ray.sweep.trial_metrics import Report

PICTURE = "samples.png"


class Silent:
    """A Listener that prints nothing: the sweep's driver reports for all trials."""

    def note(self, line: str) -> None:
        """Nothing."""

    def watch(self, statuses: list[StudentState]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class TrialInputs:
    """Inputs that all trials of a sweep share. store: the sweep's directory. replicas: of the teacher pool. features:
    of the real samples, [N, d]. slots: of a trial, at most. stop_actor: see `StopActor`. points: the images at which
    students branch off, of each line of trunks, as far as trials are known beforehand."""

    recipe_space: RecipeSpace
    store: Store
    cache: Store
    replicas: list[Any]
    features: Any
    slots: int
    stop_actor: Any
    points: dict[str, list[int]]


class TrialProcess(Protocol):
    """A trial's process, as the trial uses it."""

    inputs: TrialInputs
    slots: RaySlots
    places: Places
    pool: TeacherReplicas
    device: torch.device
    stopping: Callable[[], bool]

    @property
    def judge(self) -> Judge: ...


class Trial:
    """A trial in its process. It goes on from the state of its directory."""

    def __init__(self, number: int, recipe: Recipe, means: TrialProcess) -> None:
        self._means, self._recipe = means, recipe
        self._store = folder(means.inputs.store, f"trials/{number:04d}")
        self._plan: Plan = with_learned(means.inputs.recipe_space.plan(recipe), self._store)
        keep_recipe(self._store, self._plan.recipe)
        for ensemble in self._plan.ensembles:
            keep_partition(self._store, ensemble)
        self._monitor = Monitor(self._store, recipe.cluster.price, Silent(), [], means.stopping)
        scheduler = means.inputs.recipe_space.definition.scheduler
        self._milestones = milestones(scheduler, self._plan)
        self._speed: Any = None
        self._flops: Any = None

    def advance(self, reported: int) -> Report:
        """Trains to the first milestone after `reported` images per student, and measures. Raises TrainingError if a
        student fails or the ensemble cannot be measured, Stopped if the sweep is being stopped."""
        until = next(m for m in self._milestones if m > reported)
        ensemble = self._plan.ensembles[0]
        for trunk in ensemble.trunks:
            if any(not images_of(self._store, student) for student in ensemble.students):
                self._grow(trunk)
        if still_to_learn(self._plan):
            self._run([learning_task(self._store, self._plan, self._run_inputs(list(ensemble.trunks)))])
            self._plan = with_learned(self._plan, self._store)
            ensemble = self._plan.ensembles[0]
        for end in shareable(self._plan):
            if max(reported, self._plan.first.begins) < end < until:
                self._share(end)
        self._train(self._behind(until), until)
        assemble(self._store, self._plan, ensemble, until)
        return self._measure(Ensemble.load(folder(self._store, ensemble.directory), self._means.device), until)

    def _grow(self, trunk: StudentPlan) -> None:
        """Trains a trunk to the point where this trial's students branch off, from where other trials left it. It keeps
        a checkpoint at each point where students of other trials do. One trial at a time trains a line of trunks."""
        name, images = line_of(self._plan, trunk), trunk.spec.images
        line = self._shared.child(name)
        with held_in_turn(line, self._means.stopping):
            adopt_trunk(self._store, trunk, line)
            points = [point for point in self._means.inputs.points.get(name, []) if point < images]
            for point in [*points, images]:
                if images_of(self._store, trunk) < point:
                    self._train([trunk], point)
                    publish_trunk(self._store, trunk, line)

    def _share(self, end: int) -> None:
        """Trains the students to the end of a stage, or takes the checkpoints of another trial that did."""
        shared = shared_folder(self._shared, self._plan, end)
        if self._behind(end) and not adopt(self._store, self._plan, end, shared):
            self._train(self._behind(end), end)
            publish(self._store, self._plan, end, shared)

    @property
    def _shared(self) -> Store:
        """Where trials keep what others can go on from."""
        return self._means.inputs.store.child("shared")

    def _behind(self, images: int) -> list[StudentPlan]:
        """The students that have not reached so many images."""
        return [student for student in self._plan.ensembles[0].students if images_of(self._store, student) < images]

    def _train(self, students: list[StudentPlan], until: int) -> None:
        if not students:
            return
        inputs, segment = self._run_inputs(students), self._recipe.training.checkpoint_every
        work = [
            ScheduledTask(s.name, until, segment, self._task(s, inputs, until), begins=s.spec.begins) for s in students
        ]
        self._run(work)

    def _run(self, work: list[ScheduledTask]) -> None:
        config = self._plan.cluster
        terms = Terms(config.policy, self._means.inputs.slots, config.max_failures, config.silence_seconds)
        self._monitor.begin()
        means = self._means
        statuses = Driver(work, means.slots, terms, self._monitor, means.pool, means.places).run(means.stopping)
        self._monitor.write()
        if self._means.stopping():
            raise Stopped("the sweep is stopped", 1)
        if failed := [s for s in statuses if s.state == "failed"]:
            raise TrainingError("; ".join(f"{s.name}: {s.error}" for s in failed))

    def _task(self, student: StudentPlan, inputs: RunInputs, until: int) -> StudentTask:
        return student_task(self._store, student, inputs, until)

    def _run_inputs(self, students: list[StudentPlan]) -> RunInputs:
        recipe, inputs, cluster = self._recipe, self._means.inputs, self._plan.cluster
        teacher = teacher_in(inputs.store, self._plan)
        return RunInputs(
            recipe.data,
            recipe.conditions,
            recipe.evaluation,
            inputs.cache,
            teacher,
            cluster.pool if cluster.teacher == "pool" else None,
            cluster.gpus_per_student,
            make_pairs(self._plan, students, self._means.pool, teacher, inputs.cache, Silent().note),
            recipe.init,
            recipe.codec,
        )

    def _measure(self, ensemble: Ensemble, images: int) -> Report:
        means, plan, config = self._means, self._plan, self._recipe
        clock = Clock(means.device, config.training.threads)
        self._speed = self._speed or speed_of(ensemble, plan.conditions, clock, config.evaluation.batch)
        self._flops = self._flops or training_flops(plan)
        logged = curves(self._store, plan)
        report, samples = judged(means.judge, plan, ensemble, logged, images, self._speed, self._flops)
        self._refuse_unmeasured(report)
        self._store.write(PICTURE, self._picture(samples))
        return report

    def _picture(self, samples: Samples) -> bytes:
        return picture(samples, self._plan.conditions.n, load_codec(self._recipe.codec))

    def _refuse_unmeasured(self, report: Report) -> None:
        definition = self._means.inputs.recipe_space.definition
        for metric in {*definition.metrics, definition.scheduler.metric}:
            if getattr(report, metric) is None:
                raise TrainingError(f"its {metric} cannot be measured: samples that are not finite, or no such figure")
