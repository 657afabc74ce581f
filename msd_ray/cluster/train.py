"""A whole run on a cluster: teacher, students, ensembles."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import ray

from msd_ray.cluster.connect import check_room, connected, request_nodes, room_for
from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.idle_slots import IdleSlots
from msd_ray.cluster.monitor import Listener, Monitor
from msd_ray.cluster.partition_task import with_partition
from msd_ray.cluster.pool.pair_making import make_pairs
from msd_ray.cluster.pool.pool import running_pool
from msd_ray.cluster.ray_slots import RaySlots
from msd_ray.cluster.slots import NoPool, TeacherReplicas
from msd_ray.cluster.students import RunInputs, StudentTask, student_task
from msd_ray.cluster.teacher_task import TeacherTask
from msd_ray.cluster.work import ScheduledTask, Task, scheduled
from msd_ray.codecs import load_codec
from msd_ray.data import fingerprint, load_data
from msd_ray.data.clusters import keep_classes
from msd_ray.errors import TrainingError
from msd_ray.evaluation import load_features
from msd_ray.networks import PRETRAINED
from msd_ray.recipes import ClusterConfig
from msd_ray.runs.compatibility import judged_networks
from msd_ray.runs.disk_needs import check_cache, check_run_dir, refuse_full, room_line
from msd_ray.runs.init_weights import check_init, what_init_lacks
from msd_ray.runs.learned_partition import still_to_learn
from msd_ray.runs.lease import Lease, held, refuse_if_held
from msd_ray.runs.plan import EnsemblePlan, Plan, StudentPlan, most_at_a_time, most_beside
from msd_ray.runs.rows import reference_of
from msd_ray.runs.run_directory import (
    assemble,
    flaw_of,
    keep_data,
    keep_partition,
    keep_recipe,
    keep_source,
    left_to_train,
    refuse_other_recipe,
    refuse_other_source,
)
from msd_ray.runs.run_status import mark_stopped, marked_where_stopped
from msd_ray.runs.teacher_cache import REPORTS, cached_in, copy_teacher, keep_teacher, teacher_in
from msd_ray.stopping import STOP
from msd_ray.storage import Store
from msd_ray.teachers import TeacherSource
from msd_ray.teachers.kept_teacher import KeptTeacher, has_teacher
from msd_ray.training.checkpoints import Checkpoints


def train(
    plan: Plan,
    store: Store,
    cache: Store,
    address: str | None,
    listener: Listener,
    then: Callable[[IdleSlots], None] = lambda idle: None,
    idle: IdleSlots | None = None,
) -> None:
    """Trains whatever of the plan is not trained yet, and makes its ensembles in the run directory `store`.

    then: what is done at the end, while a cluster that was connected to for the training is still there, with the
    processes that trained. idle: processes of earlier runs on the same connection, which are kept for later ones.

    Raises UserError where the directory holds another run, another process trains it, or the cluster is too small,
    TrainingError where a student failed (the others finish first), Stopped where this process was told to end.
    """
    refuse_other_recipe(store, plan.recipe)
    refuse_if_held(store)
    check_init(plan)
    if lacking := what_init_lacks(plan):
        listener.note(lacking)
    missing = _unfinished(plan, store, listener.note)
    students = [student for ensemble in missing for student in left_to_train(store, ensemble)]
    refuse_other_source(store, plan)
    teacher = _found_teacher(plan, store, cache)
    check_run_dir(store)
    if students or not teacher:
        check_cache(cache)
        refuse_full(plan, store)
        _bring_features(plan, cache)
        with connected(address, dashboard=plan.cluster.shares) as where, _kept(idle) as idle:
            most = most_at_a_time(students)
            check_room(max(1, most), plan.cluster)
            with held(store) as lease:
                slots = min(room_for(most, plan.cluster), most)
                listener.note(
                    f"{where}: {slots} of {len(students)} students at a time; on disk {room_line(plan, store)}"
                )
                monitor = Monitor(store, plan.cluster.price, listener, [lease.refuse_if_lost])
                _train(plan, students, store, cache, monitor, teacher, idle)
                _finish(plan, missing, store, lease)
                monitor.write(finished=True)
            with marked_where_stopped(store):
                then(idle)
    else:
        with held(store) as lease:
            mark_stopped(store, False)
            keep_recipe(store, plan.recipe)
            _take_teacher(teacher, store, plan)
            _finish(plan, missing, store, lease)
        with marked_where_stopped(store), _kept(idle) as idle:
            then(idle)


def _kept(idle: IdleSlots | None) -> AbstractContextManager[IdleSlots]:
    """The caller's, who ends them, or some for this run alone."""
    return nullcontext(idle) if idle else IdleSlots()


def _bring_features(plan: Plan, cache: Store) -> None:
    """Sees, once for all students, that every feature network is there, and every network that a discriminator looks
    into. Raises UserError where one cannot be had."""
    recipe = plan.recipe
    data, codec = load_data(recipe.data), load_codec(recipe.codec)
    for name in judged_networks(recipe):
        PRETRAINED[name]()
    for name in recipe.evaluation.spaces:
        load_features(name, data, cache, codec, recipe.evaluation.files)
    reference_of(recipe, data.shape)


def _unfinished(plan: Plan, store: Store, note: Callable[[str], None]) -> list[EnsemblePlan]:
    """The ensembles that are not there, or not whole; what was whole once is told."""
    found = []
    for ensemble in plan.ensembles:
        try:
            if flaw := flaw_of(store, ensemble):
                note(flaw)
        except FileNotFoundError:
            flaw = "there is none"
        if flaw:
            found.append(ensemble)
    return found


def _train(
    plan: Plan,
    students: list[StudentPlan],
    store: Store,
    cache: Store,
    monitor: Monitor,
    teacher: TeacherSource | None,
    idle: IdleSlots,
) -> None:
    keep_data(store, fingerprint(plan.recipe.data) + plan.conditions.fingerprint)
    keep_classes(plan.recipe.data)
    keep_recipe(store, plan.recipe)  # not before it is certain that something will run
    for ensemble in plan.ensembles:
        keep_partition(store, ensemble)
    _bring_teacher(plan, store, cache, monitor, teacher, idle)
    if students:
        _train_students(plan, students, store, cache, monitor, idle)


def bring_teacher(plan: Plan, store: Store, cache: Store, monitor: Monitor) -> None:
    """Sees that the directory `store` has the plan's teacher: its own, the cache's, or one that is trained now; of one
    that the recipe brings, which it is. Raises UserError where the directory has another of these."""
    refuse_other_source(store, plan)
    with IdleSlots() as idle:
        _bring_teacher(plan, store, cache, monitor, _found_teacher(plan, store, cache), idle)


def _bring_teacher(
    plan: Plan, store: Store, cache: Store, monitor: Monitor, known: TeacherSource | None, idle: IdleSlots
) -> None:
    """known: the teacher, if it need not be trained."""
    if known:
        _take_teacher(known, store, plan)
    else:
        _train_teacher(plan, store, monitor, idle)
        copy_teacher(store.child("teacher"), cached_in(cache, plan.recipe, plan.teacher))


def _found_teacher(plan: Plan, store: Store, cache: Store) -> TeacherSource | None:
    """The teacher that the recipe brings, the run's own, or else the cache's. Reads all of it, so it is asked once."""
    places = store.child("teacher"), cached_in(cache, plan.recipe, plan.teacher)
    return plan.source or next((KeptTeacher(place) for place in places if has_teacher(place)), None)


def _take_teacher(found: TeacherSource, store: Store, plan: Plan) -> None:
    own = store.child("teacher")
    if plan.source or not isinstance(found, KeptTeacher):
        keep_source(store, plan)
    elif found.folder.uri != own.uri:
        copy_teacher(found.folder, own)


def _finish(plan: Plan, ensembles: list[EnsemblePlan], store: Store, lease: Lease) -> None:
    lease.check()
    for ensemble in ensembles:
        assemble(store, plan, ensemble)


def _train_teacher(plan: Plan, store: Store, monitor: Monitor, idle: IdleSlots) -> None:
    """Trains the teacher in a slot, with checkpoints, and keeps it in the run directory."""
    recipe, checkpoints = plan.recipe, store.child("teacher-training")
    config, gpus = recipe.teacher, recipe.cluster.gpus_per_student
    task = TeacherTask(config, plan.teacher, recipe.noise, recipe.data, recipe.conditions, checkpoints, gpus)
    alone = replace(recipe.cluster, workers_per_student=(1, 1))
    work = [ScheduledTask("teacher", config.images, config.images // REPORTS + 1, task)]
    _complete(work, 1, alone, monitor, NoPool(), idle)
    state = Checkpoints(checkpoints, keep=1).latest()
    if state is None:
        raise TrainingError(
            f"the trained teacher is missing from {checkpoints.uri}; is it storage that all nodes share?"
        )
    keep_teacher(store.child("teacher"), plan.teacher, state, plan.conditions_spec)
    store.delete("teacher-training")


def _train_students(
    plan: Plan, students: list[StudentPlan], store: Store, cache: Store, monitor: Monitor, idle: IdleSlots
) -> None:
    recipe, cluster = plan.recipe, plan.cluster
    teacher, segment = teacher_in(store, plan), recipe.training.checkpoint_every
    with running_pool(recipe, teacher, needed=cluster.teacher == "pool") as pool:
        pairs = make_pairs(plan, students, pool, teacher, cache, monitor.note)
        inputs = RunInputs(
            recipe.data,
            recipe.conditions,
            recipe.evaluation,
            cache,
            teacher,
            cluster.pool if pool else None,
            cluster.gpus_per_student,
            pairs,
            recipe.init,
            recipe.codec,
        )
        tasks = [student_task(store, student, inputs) for student in students]
        work = scheduled(students, _shared(tasks, students, cluster) if cluster.shares else tasks, segment)
        if still_to_learn(plan):
            work = with_partition(work, store, plan, inputs)
        if pool:
            monitor.show(pool)
        _complete(work, most_at_a_time(students), cluster, monitor, pool or NoPool(), idle)


def _shared(tasks: list[StudentTask], students: list[StudentPlan], cluster: ClusterConfig) -> list[Task]:
    """The tasks with several workers each: the fewer students can train beside one, the more it may have."""
    from msd_ray.cluster.ray_train.shared import SharedTask  # Ray Train takes long to import, and few runs need it

    most = most_at_a_time(students)
    slots = _most_slots(most, cluster) or most
    beside = [min(slots, most_beside(student, students)) for student in students]
    return [SharedTask(task, cluster, i, n) for i, (task, n) in enumerate(zip(tasks, beside, strict=True))]


def _complete(
    work: list[ScheduledTask],
    most: int,
    cluster: ClusterConfig,
    monitor: Monitor,
    teacher_replicas: TeacherReplicas,
    idle: IdleSlots,
) -> None:
    """Sees all work through. most: tasks that can be under way at a time. Raises TrainingError that names what failed,
    after the rest has finished, and Stopped where this process was told to end, after all that trained wrote a
    checkpoint."""
    slots = _slots(cluster, lambda: room_for(most, cluster), idle)
    policy = "sequential" if cluster.shares else cluster.policy
    terms = Terms(policy, _most_slots(most, cluster), cluster.max_failures, cluster.silence_seconds)
    monitor.begin()
    try:
        with STOP.in_order(), request_nodes(most, cluster):
            statuses = Driver(work, slots, terms, monitor, teacher_replicas).run(lambda: STOP.asked)
    finally:
        slots.close()
        monitor.write()
    STOP.check()
    failed = {s.name: s for s in statuses if s.state == "failed"}
    if failed:
        reasons = "; ".join(f"{name}: {s.error}" for name, s in failed.items() if s.trunk not in failed)
        raise TrainingError(f"{len(failed)} of {len(work)} did not finish ({reasons}); the same command tries again")


def _slots(cluster: ClusterConfig, room: Callable[[], int], idle: IdleSlots) -> RaySlots:
    """Slots whose students are shared take no room, the workers do. What Ray Train cleans up with finds the cluster by
    RAY_ADDRESS, where there are several on a machine."""
    if cluster.shares:
        return RaySlots(0.0, 0.0, room, {"RAY_ADDRESS": ray.get_runtime_context().gcs_address})
    return RaySlots(cluster.cpus_per_student, cluster.gpus_per_student, room, idle=idle)


def _most_slots(students: int, cluster: ClusterConfig) -> int | None:
    """How many slots there may be, None for as many as there is room for.

    Workers that share a student cannot take turns, so there are no more slots than have room for them as the cluster is
    now, or any number where Ray's autoscaler brings nodes.
    """
    if not cluster.shares or cluster.autoscale:
        return cluster.max_slots
    return min(max(1, room_for(students, cluster)), cluster.max_slots or students)
