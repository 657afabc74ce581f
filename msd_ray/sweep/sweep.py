"""A whole sweep: one cluster, one teacher, one pool, and as many trials as its budget allows."""

from dataclasses import replace
from functools import partial
from typing import Any

from msd_ray.cluster.connect import check_room, connected, request_nodes, room_for
from msd_ray.cluster.monitor import Listener, Monitor
from msd_ray.cluster.pool.pair_making import make_pairs
from msd_ray.cluster.pool.pool import running_pool
from msd_ray.cluster.train import bring_teacher
from msd_ray.errors import TrainingError, UserError
from msd_ray.evaluation import Judge
from msd_ray.recipes import ClusterConfig, Recipe
from msd_ray.runs.disk_needs import check_cache, check_run_dir
from msd_ray.runs.lease import held, refuse_if_held
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_status import mark_stopped
from msd_ray.runs.shared_trunks import branch_points
from msd_ray.runs.teacher_cache import cached_in, teacher_in
from msd_ray.stopping import STOP
from msd_ray.storage import MANIFEST, Store, default_cache
from msd_ray.sweep.controller import SweepController
from msd_ray.sweep.definition import Trials
from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.stop_actor import make_stop_actor, put_up_if_asked
from msd_ray.sweep.sweep_directory import keep_definition, prune, refuse_other_definition
from msd_ray.sweep.sweep_journal import SweepJournal
from msd_ray.sweep.sweep_results import conclude
from msd_ray.sweep.trial import TrialInputs
from msd_ray.sweep.tune import run_trials


def sweep(recipe_space: RecipeSpace, store: Store, address: str | None, listener: Listener) -> SweepJournal:
    """Runs all trials of the sweep that have not been run yet, and writes its results into the directory `store`.

    Raises UserError if the definition is wrong, the directory holds another sweep or another process drives it, or the
    cluster is too small; TrainingError if a trial's process kept dying; Stopped if this process was told to stop
    (KeyboardInterrupt if it does not catch signals), with the results so far written.
    """
    plans = recipe_space.check()
    refuse_other_definition(store, recipe_space)
    refuse_if_held(store)
    journal = SweepJournal(store)
    controller = SweepController(recipe_space, journal, listener.note)
    if controller.most < (recipe_space.definition.budget.trials or 0):
        listener.note(f"the space has no more than {controller.most} different trials: these are all")
    if controller.over:
        with held(store):
            keep_definition(store, recipe_space)
            conclude(store, recipe_space, journal, over=True)
        return journal
    trials = recipe_space.definition.trials
    check_run_dir(store)
    _check_cache(plans[0], store)
    with connected(address) as where:
        slots = slots_of(trials, plans)
        with held(store) as lease, STOP.before_the_end(partial(mark_stopped, store)):
            mark_stopped(store, False)
            listener.note(f"{where}: {controller.most} trials, {trials.concurrent} at a time, {slots} slots each")
            keep_definition(store, recipe_space)
            journal.guard = lease.refuse_if_lost
            journal.begin()
            try:
                chores = [lease.refuse_if_lost, partial(prune, store, recipe_space.definition, journal)]
                _run(recipe_space, plans, store, slots, controller, listener, chores)
            finally:
                if STOP.asked:
                    mark_stopped(store)
                if not lease.lost:
                    conclude(store, recipe_space, journal, over=controller.over)
    return journal


def _check_cache(plan: Plan, store: Store) -> None:
    """Raises UserError if the teacher must be trained and the cache cannot be written to."""
    places = store.child("teacher"), cached_in(default_cache(), plan.recipe, plan.teacher)
    if not plan.source and not any(place.exists(MANIFEST) for place in places):
        check_cache(default_cache())


def slots_of(trials: Trials, plans: list[Plan]) -> int:
    """How many slots each trial may have on the connected cluster. Raises UserError if there is no room for one, or for
    all students that must train at once because they may not take turns."""
    most = max(len(plan.ensembles[0].students) for plan in plans)
    cluster = _with_pool(plans)
    check_room(most * trials.concurrent, cluster)
    room = most * trials.concurrent if cluster.autoscale else room_for(most * trials.concurrent, cluster)
    share = min(trials.slots or max(1, room // trials.concurrent), most)
    if cluster.max_slots:
        share = min(share, cluster.max_slots)
    if not trials.queue and (share < most or share * trials.concurrent > room):
        raise UserError(
            f"{trials.concurrent} trials of up to {most} students at a time need {most * trials.concurrent} slots, the "
            f"cluster has room for {room}: add nodes, lower trials.concurrent, or let them take turns (trials.queue)"
        )
    return share


def _with_pool(plans: list[Plan]) -> ClusterConfig:
    """The plans' cluster, with a pool if any plan needs one; the pool has all its replicas from the beginning."""
    asking = [plan.cluster for plan in plans if plan.cluster.teacher == "pool"]
    cluster = (asking or [plans[0].cluster])[0]
    return replace(cluster, pool=replace(cluster.pool, min_replicas=cluster.pool.max_replicas))


def _run(
    recipe_space: RecipeSpace,
    plans: list[Plan],
    store: Store,
    slots: int,
    controller: SweepController,
    listener: Listener,
    chores: Any,
) -> None:
    cache, cluster = default_cache(), _with_pool(plans)
    recipe: Recipe = replace(recipe_space.first, cluster=cluster)
    bring_teacher(plans[0], store, cache, Monitor(store, cluster.price, listener, chores))
    features = Judge(recipe_space.features, recipe_space.data.train, recipe.evaluation).features  # once, for all trials
    several = slots * recipe_space.definition.trials.concurrent
    needed, teacher = cluster.teacher == "pool", teacher_in(store, plans[0])
    with request_nodes(several, cluster), running_pool(recipe, teacher, needed) as pool:
        for plan in plans:
            make_pairs(plan, plan.students, pool, teacher, cache, listener.note)
        replicas = pool.actors if pool else []
        stop_actor = make_stop_actor()
        inputs = TrialInputs(recipe_space, store, cache, replicas, features, slots, stop_actor, branch_points(plans))
        with STOP.in_order():
            run_trials(controller, inputs, [*chores, partial(put_up_if_asked, stop_actor)])
    STOP.check()
    if controller.given_up:
        lost = len(controller.given_up)
        raise TrainingError(f"the processes of {lost} trials kept dying; the same command tries again")
    if not controller.over:
        raise KeyboardInterrupt
