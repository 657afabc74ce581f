"""A whole run on a cluster: teacher, students, ensembles."""

from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.exceptions import RayTaskError

from msd_ray.cluster.actors import StudentActor, Surroundings, TeacherTrainingActor
from msd_ray.cluster.connect import connected, slots_for
from msd_ray.cluster.driver import Driver, Status, Work, reason_of
from msd_ray.cluster.pool import start_pool, stop_pool
from msd_ray.data import load_data
from msd_ray.errors import TrainingError
from msd_ray.evaluation import load_features
from msd_ray.recipes import Recipe
from msd_ray.runs.directory import assemble, checkpoint_of, folder, has_ensemble, keep_recipe, refuse_other_recipe
from msd_ray.runs.pairs import PART, has_part, pairs_folder, parts_of
from msd_ray.runs.plan import Job, Plan
from msd_ray.runs.start import check_init
from msd_ray.runs.teacher import REPORTS, cached_in, copy_teacher, has_teacher, keep_teacher
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints


class Listener(Protocol):
    """Who watches a run."""

    def note(self, line: str) -> None: ...

    def watch(self, statuses: list[Status]) -> None: ...


def train(plan: Plan, store: Store, cache: Store, address: str | None, listener: Listener) -> None:
    """Trains whatever of the plan is not trained yet, and makes its ensembles in the run directory `store`.

    Raises UserError where the directory holds another run or the cluster is too small, TrainingError where a student
    failed (the others finish first).
    """
    refuse_other_recipe(store, plan.recipe)
    check_init(plan)
    missing = [group for group in plan.groups if not has_ensemble(store, group)]
    jobs = [job for group in missing for job in group.jobs if not _trained(store, job)]
    own, cached = store.child("teacher"), cached_in(cache, plan.recipe, plan.teacher)
    taught = has_teacher(own)
    if not taught and has_teacher(cached):
        copy_teacher(cached, own)
        taught = True
    if jobs or not taught:
        with connected(address) as where:
            slots = slots_for(max(1, len(jobs)), plan.cluster, ray.cluster_resources())  # type: ignore[no-untyped-call]
            keep_recipe(store, plan.recipe)  # not before it is certain that something will run
            listener.note(f"{where}: {min(slots, len(jobs))} of {len(jobs)} students at a time")
            if not taught:
                _train_teacher(plan, store, listener)
                copy_teacher(own, cached)
            if jobs:
                _train_students(plan, jobs, slots, store, cache, listener)
    else:
        keep_recipe(store, plan.recipe)
    for group in missing:
        assemble(store, plan, group)


def _train_teacher(plan: Plan, store: Store, listener: Listener) -> None:
    """Trains the teacher in an actor, with checkpoints, and keeps it in the run directory."""
    recipe, checkpoints = plan.recipe, store.child("teacher-training")
    actor = ray.remote(TeacherTrainingActor).options(
        num_cpus=recipe.cluster.cpus_per_student, num_gpus=recipe.cluster.gpus_per_student
    )
    arguments = (recipe.teacher, plan.teacher, recipe.noise, recipe.data, checkpoints, recipe.cluster.gpus_per_student)
    segment = recipe.teacher.images // REPORTS + 1
    work = Work("teacher", recipe.teacher.images, segment, lambda: actor.remote(*arguments))
    _complete([work], 1, plan, listener.watch)
    state = Checkpoints(checkpoints, keep=1).latest()
    if state is None:
        raise TrainingError(
            f"the trained teacher is missing from {checkpoints.uri}; is it storage that all nodes share?"
        )
    keep_teacher(store.child("teacher"), plan.teacher, state)
    store.delete("teacher-training")


def _train_students(plan: Plan, jobs: list[Job], slots: int, store: Store, cache: Store, listener: Listener) -> None:
    recipe, cluster = plan.recipe, plan.cluster
    teacher = store.child("teacher")
    pool = _start_pool(recipe, teacher) if cluster.teacher == "pool" else None
    load_features(recipe.evaluation.features, load_data(recipe.data), cache)  # once, before every actor looks for them
    pairs = _pairs(plan, jobs, pool, teacher, cache, listener)
    around = Surroundings(
        recipe.data, recipe.evaluation, cache, teacher, pool, cluster.gpus_per_student, pairs, recipe.init
    )
    actor = ray.remote(StudentActor).options(num_cpus=cluster.cpus_per_student, num_gpus=cluster.gpus_per_student)

    def starter(job: Job) -> Callable[[], Any]:
        return lambda: actor.remote(job.spec, folder(store, job.directory), around)

    segment = recipe.training.checkpoint_every
    work = [Work(job.name, job.spec.images, segment, starter(job)) for job in jobs]
    try:
        _complete(work, slots, plan, listener.watch)
    finally:
        stop_pool(pool or [])


def _start_pool(recipe: Recipe, teacher: Store) -> list[Any]:
    c = recipe.cluster
    return start_pool(c.pool_size, c.pool_cpus, c.pool_gpus, teacher, recipe.training.precision)


def _pairs(
    plan: Plan, jobs: list[Job], pool: list[Any] | None, teacher: Store, cache: Store, listener: Listener
) -> tuple[Store, list[int]] | None:
    """Makes those of the teacher's pairs that are missing, where an objective needs any, and says where they are."""
    if not any(job.spec.objective(stage).needs.pairs for job in jobs for stage in job.spec.stages):
        return None
    store, parts = pairs_folder(cache, plan), parts_of(plan)
    missing = [part for part in parts if not has_part(store, part)]
    makers = pool or (_start_pool(plan.recipe, teacher) if missing else [])
    waiting = [makers[i % len(makers)].make_pairs.remote(store, part, plan) for i, part in enumerate(missing)]
    while waiting:
        (done,), waiting = ray.wait(waiting)
        try:
            ray.get(done)
        except RayTaskError as error:
            raise TrainingError(f"the teacher's pairs could not be made: {reason_of(error)}") from None
        listener.note(f"teacher's pairs: {(len(parts) - len(waiting)) * PART} of {len(parts) * PART}")
    if not pool:
        stop_pool(makers)
    return store, parts


def _trained(store: Store, job: Job) -> bool:
    state = checkpoint_of(store, job)
    return state is not None and state.meta["nimg"] >= job.spec.images


def _complete(work: list[Work], slots: int, plan: Plan, watch: Callable[[list[Status]], None]) -> None:
    """Sees all work through; raises TrainingError that names what failed, after the rest has finished."""
    statuses = Driver(work, slots, plan.recipe.cluster.max_failures, watch).run()
    failed = [s for s in statuses if s.state == "failed"]
    if failed:
        reasons = "; ".join(f"{s.name}: {s.error}" for s in failed)
        raise TrainingError(f"{len(failed)} of {len(work)} did not finish ({reasons}); the same command tries again")
