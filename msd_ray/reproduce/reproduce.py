"""Runs an experiment: every arm with every seed, through the same training and evaluation as `msd-ray train`."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from msd_ray.cluster.connect import connected
from msd_ray.cluster.evaluation import measuring
from msd_ray.cluster.idle_slots import IdleSlots
from msd_ray.cluster.monitor import Listener
from msd_ray.cluster.train import train
from msd_ray.conditions import in_turn
from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.evaluation import to_records
from msd_ray.evaluation.table import TableRecord
from msd_ray.recipes import Recipe, parse_recipe
from msd_ray.reproduce.experiment import Arm, Experiment, Summaries, summary
from msd_ray.runs.compatibility import teachers_sampling
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_results import measured_rows
from msd_ray.runs.sample_sources import device_here, ensemble_sampler, teacher_sampler
from msd_ray.runs.shared_trunks import adopt, line_of, publish
from msd_ray.runs.teacher_cache import teacher_in
from msd_ray.storage import Store

TEACHER = "teacher"
SAMPLES = 2048
"""Inputs on which students and teacher are compared one by one."""

Values = dict[str, float | None]


@dataclass(frozen=True)
class Finding:
    """What a paper claims, whether it holds here, and the figures that say so."""

    claim: str
    holds: bool
    figures: str


def reproduce(
    experiment: Experiment, seeds: Sequence[int], folder: str, address: str | None, listener: Listener
) -> tuple[Summaries, list[Finding]]:
    """All arms over all seeds, their runs kept in `folder`: again, only what is missing is trained.

    Raises UserError or TrainingError as `msd-ray train` does.
    """
    found: dict[str, list[Values]] = {TEACHER: [], **{arm.name: [] for arm in experiment.arms}}
    runs = [(seed, arm) for i, seed in enumerate(seeds) for arm in experiment.arms if arm.most is None or i < arm.most]
    with connected(address) as where, IdleSlots() as idle:
        listener.note(where)
        for i, (seed, arm) in enumerate(runs):
            listener.note(f"{experiment.name}: {arm.name}, seed {seed} ({i + 1} of {len(runs)})")
            teacher, ensemble = _result(arm, seed, folder, address, listener, idle, compared="l1" in experiment.columns)
            found[arm.name].append(ensemble)
            found[TEACHER].append(teacher)
    columns = [*experiment.columns, "n"]
    summaries = {name: {c: summary([r.get(c) for r in rows]) for c in columns} for name, rows in found.items()}
    return summaries, [Finding(c.text, *c.holds(summaries)) for c in experiment.claims]


def _result(
    arm: Arm, seed: int, folder: str, address: str | None, listener: Listener, idle: IdleSlots, compared: bool
) -> tuple[Values, Values]:
    """Figures of teacher and ensemble of one run; trained and measured unless that was done already. compared: whether
    sample by sample, too, which takes as long as the teacher's samples."""
    overrides = [*arm.overrides, f"seed={seed}"]
    context = RunContext.of(arm.recipe, overrides, f"{folder}/{slug(arm.name)}-seed{seed}")
    recipe = context.plan.recipe
    if context.store.exists("result.json"):
        known = json.loads(context.store.read("result.json"))
        if _is_of(recipe, known["key"]):
            return known[TEACHER], known["ensemble"]
    with _shared_trunks(context, Store(f"{folder}/trunks")):
        train(context.plan, context.store, context.cache, address, listener, idle=idle)
    with measuring(address, listener, idle) as complete:
        rows = {str(r["name"]): flat(r) for r in to_records(measured_rows(context, complete, listener.note))}
    longest = max(student.spec.images for student in context.plan.ensembles[0].students)
    teacher = dict(rows[TEACHER])
    distance = {"l1": distance_to_teacher(context)} if compared else {}
    ensemble = {**rows["ensemble"], **distance, "longest": longest}
    content = {"key": json.dumps(recipe.to_json(), sort_keys=True), TEACHER: teacher, "ensemble": ensemble}
    context.store.write("result.json", json.dumps(content, indent=1).encode())
    return teacher, ensemble


def _is_of(recipe: Recipe, key: str) -> bool:
    """Whether the recipe in JSON says the same. What it does not know yet has its default."""
    try:
        return parse_recipe(json.loads(key), imports=False).to_json() == recipe.to_json()
    except UserError:
        return False


def flat(record: TableRecord) -> Values:
    """With the scores in further features by their names: efficientnet-lite0/fid."""
    also = record.pop("also")
    return record | {f"{scores['features']}/{name}": value for scores in also for name, value in scores.items()}


@contextmanager
def _shared_trunks(context: RunContext, kept: Store) -> Iterator[None]:
    """Arms that differ in where students branch off, and in how many, train their trunk once."""
    trunks = [(trunk, kept.child(line_of(context.plan, trunk))) for trunk in context.plan.ensembles[0].trunks]
    for trunk, line in trunks:
        adopt(context.store, trunk, line)
    yield
    for trunk, line in trunks:
        publish(context.store, trunk, line)


def distance_to_teacher(context: RunContext) -> float:
    """Mean l1 distance per element between what ensemble and teacher make of the same noises and conditions."""
    seeds = list(range(SAMPLES))
    condition = in_turn(torch.arange(context.conditions.n), torch.arange(SAMPLES))
    store, device = context.store, device_here()
    ours = ensemble_sampler(Ensemble.load(store.child("ensemble"), device), context.conditions)(condition, seeds)
    teacher = teacher_in(store, context.plan)
    theirs = teacher_sampler(teacher, teachers_sampling(context.recipe), context.conditions, device)(condition, seeds)
    return float((ours.cpu() - theirs.cpu()).abs().mean())


def slug(name: str) -> str:
    """`name` as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("%", "pc")).strip("-")
