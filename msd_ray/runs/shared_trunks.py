"""Trunks that several runs share. How a trunk trains depends neither on how many students branch off from it nor on
where they do. So runs that differ in these alone train it once: each begins with the checkpoint that another one kept,
and trains it further where its own branch point lies further on."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from msd_ray.runs.plan import Plan, StudentPlan
from msd_ray.runs.run_directory import folder, images_of, weights_part
from msd_ray.storage import Store, copy_bundle, digest
from msd_ray.training.checkpoints import Checkpoints, checkpoint_name
from msd_ray.training.config import ROUNDING
from msd_ray.training.records import LoggedSegment, Records

_SAID_BY_THE_TRUNK = ("name", "partition", "evaluation", "seed", "stages", "student", "students", "training", "noise")
"""Parts of a recipe of which the trunk's spec says what matters to the trunk."""


def line_of(plan: Plan, trunk: StudentPlan) -> str:
    """A name for all that the trunk's weights depend on, but for how far it is trained."""
    rest = {key: value for key, value in weights_part(plan.recipe).items() if key not in _SAID_BY_THE_TRUNK}
    return digest([rest, *_history(plan, trunk)])


def branch_points(plans: Iterable[Plan]) -> dict[str, list[int]]:
    """The images at which students branch off, rising, of each line of trunks."""
    points: dict[str, set[int]] = {}
    for plan in plans:
        for trunk in plan.ensembles[0].trunks:
            points.setdefault(line_of(plan, trunk), set()).add(trunk.spec.images)
    return {line: sorted(images) for line, images in points.items()}


def adopt(run: Store, trunk: StudentPlan, line: Store) -> None:
    """Gives the run's trunk the furthest checkpoint of its line that it is behind and can use."""
    kept = Checkpoints(line, 1).newest(most=trunk.spec.images)
    if kept and kept.nimg > images_of(run, trunk):
        copy_checkpoint(line, folder(run, trunk.directory), kept.nimg)


def publish(run: Store, trunk: StudentPlan, line: Store) -> None:
    """Keeps the newest checkpoint of the run's trunk for other runs, unless one did already."""
    made = images_of(run, trunk)
    kept = Checkpoints(line, 1).newest(most=made)
    if made and not (kept and kept.nimg == made):
        copy_checkpoint(folder(run, trunk.directory), line, made)


def copy_checkpoint(source: Store, target: Store, nimg: int) -> None:
    """Copies a checkpoint from one student's folder to another's, and before it the log up to it, as one record. Raises
    FileNotFoundError or CorruptError if it is not there, or not whole."""
    if metrics := Records(source).until(nimg):
        Records(target).write(nimg, LoggedSegment(metrics))
    copy_bundle(source.child(checkpoint_name(nimg)), target.child(checkpoint_name(nimg)))


def _history(plan: Plan, trunk: StudentPlan) -> list[Any]:
    """What made the trunk, and what made that which it branches off from."""
    spec = replace(trunk.spec, training=replace(trunk.spec.training, share_images=False))
    names = list(spec.stages)
    last = {key: value for key, value in asdict(spec.stages[names[-1]]).items() if key != "images"}
    before = [asdict(spec.stages[name]) for name in names[:-1]]
    ids = plan.ensembles[0].partition.owned_by_parts(trunk.parts, plan.conditions).ids.tolist()
    said = asdict(replace(spec, stages={}))
    del said["adapter"]  # a trunk has none, and had none when others were kept
    said["training"] = {key: value for key, value in said["training"].items() if key not in ROUNDING}
    facts = {**said, "stages": [*before, last], "names": names, "ids": ids}
    return [facts, *(_history(plan, trunk.trunk) if trunk.trunk else [])]
