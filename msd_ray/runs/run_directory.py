"""A run's directory: what lies where, and whose it is."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from msd_ray.conditions import Partition
from msd_ray.conditions.partition_config import KMEANS
from msd_ray.data.clusters import NAME as CLUSTERS
from msd_ray.ensemble import Member, SharedBase, save_ensemble
from msd_ray.errors import CorruptError, UserError
from msd_ray.recipes import Recipe, parse_recipe
from msd_ray.runs.adapter_base import base_of
from msd_ray.runs.learned_partition import still_to_learn
from msd_ray.runs.plan import EnsemblePlan, Plan, StudentPlan
from msd_ray.runs.run_status import read_status
from msd_ray.runs.teacher_cache import teacher_in
from msd_ray.storage import RESTORE, Store, check_sizes, read_manifest
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.config import ROUNDING

_WITHOUT_EFFECT_ON_WEIGHTS = ("cluster", "evaluation")
MAKES_AGAIN = "`msd-ray train` with the same recipe makes the ensemble again, from checkpoints where it finds them"


def folder(store: Store, path: str) -> Store:
    """The directory at `path`, such as students/0003, in a run's; the run's own if it is empty."""
    for name in filter(None, path.split("/")):
        store = store.child(name)
    return store


def ensemble_folder(uri: str) -> Store:
    """Where the ensemble is that `uri` names: itself, or the one of a run directory.

    Raises UserError where the run has none yet, CorruptError where a file of it is missing or cut short.
    """
    store = Store(uri)
    of_run = store.exists("recipe.json") or store.exists("ensemble")
    found = store.child("ensemble") if of_run else store
    try:
        check_sizes(found, read_manifest(found), MAKES_AGAIN if of_run else RESTORE)
    except FileNotFoundError:
        if of_run:
            raise UserError(f"{store.uri} has no ensemble yet: {how_far(store)}") from None
    return found


def how_far(store: Store) -> str:
    """How far the students of an unfinished run are, and what to do."""
    try:
        students = read_status(store).students
    except (UserError, CorruptError):
        return "its training has not begun; run `msd-ray train`"
    trained, images = sum(s.own_nimg for s in students), sum(s.own_images for s in students)
    done = sum(s.nimg >= s.images for s in students)
    return (
        f"{done} of {len(students)} students are trained, on {trained / max(images, 1):.0%} of all images; "
        f"`msd-ray train` with the same recipe goes on"
    )


def refuse_other_recipe(store: Store, recipe: Recipe) -> None:
    """Raises UserError where the directory holds a run whose weights depend on anything that `recipe` has otherwise."""
    if store.exists("recipe.json"):
        difference = first_difference(weights_part(recipe_of(store)), weights_part(recipe), "")
        if difference:
            raise UserError(f"{store.uri} holds a run with another {difference}; choose another --run-dir")


def shared_as_kept(recipe: Recipe, store: Store) -> Recipe:
    """The recipe, with stages shared as in the run of the directory where the recipe leaves that open: an earlier
    version may have begun it. Raises UserError where the directory's recipe cannot be read."""
    if not store.exists("recipe.json"):
        return recipe
    kept, stages = recipe_of(store).stages, dict(recipe.stages)
    for name in kept.keys() & stages.keys():
        if stages[name].shared == "auto":
            stages[name] = replace(stages[name], shared=kept[name].shared)
    return replace(recipe, stages=stages)


def with_own_classes(recipe: Recipe, store: Store) -> Recipe:
    """The recipe, with the classes of clustered data in the run's directory where it names no other place for them."""
    if recipe.data.name != CLUSTERS or recipe.data.folder:
        return recipe
    return replace(recipe, data=replace(recipe.data, folder=store.child("classes").uri))


def keep_recipe(store: Store, recipe: Recipe) -> None:
    """Without the place of classes that are the directory's own: it may be moved."""
    said = recipe.to_json()
    if recipe.data.folder == store.child("classes").uri:
        said["data"]["folder"] = ""
    store.write("recipe.json", json.dumps(said, indent=1).encode())


def keep_data(store: Store, fingerprint: str) -> None:
    """Writes down which samples the run is trained on, where the recipe alone does not say it. Raises UserError where
    the directory holds a run on other samples."""
    if fingerprint:
        if _has_other(store, "data.json", fingerprint):
            raise UserError(f"{store.uri} was trained on other samples than there are now; choose another --run-dir")
        store.write("data.json", _as_kept(fingerprint))


def keep_source(store: Store, plan: Plan) -> None:
    """Writes down which teacher a run learns from that the recipe brings."""
    if plan.source:
        store.write("teacher.json", _as_kept(plan.source.fingerprint))


def refuse_other_source(store: Store, plan: Plan) -> None:
    """Raises UserError where the directory's run learns from another teacher than the recipe brings now."""
    if plan.source and _has_other(store, "teacher.json", plan.source.fingerprint):
        raise UserError(
            f"{store.uri} has students of another teacher than {plan.recipe.teacher.origin} gives now; choose another "
            f"--run-dir"
        )


def _has_other(store: Store, name: str, fingerprint: str) -> bool:
    return store.exists(name) and store.read(name) != _as_kept(fingerprint)


def _as_kept(fingerprint: str) -> bytes:
    return json.dumps({"fingerprint": fingerprint}).encode()


def keep_partition(store: Store, ensemble: EnsemblePlan) -> None:
    """Writes down which conditions each part of the ensemble owns: its students look it up there."""
    write_partition(folder(store, ensemble.home), ensemble.partition)


def write_partition(home: Store, partition: Partition) -> None:
    for name, content in {**partition.files, "partition.json": json.dumps(partition.to_json()).encode()}.items():
        home.write(name, content)


def with_learned(plan: Plan, store: Store) -> Plan:
    """The plan with the partition that the run in the directory has learned, the plan itself where there is none.
    Raises CorruptError if it is damaged."""
    if not still_to_learn(plan) or not store.exists("partition.json"):
        return plan
    first, *others = plan.ensembles
    return replace(plan, ensembles=(replace(first, partition=kept_partition(store)), *others))


def kept_partition(home: Store) -> Partition:
    """The partition of the students whose directories lie in `home`. Raises CorruptError if it is damaged."""
    try:
        return Partition.from_json(json.loads(home.read("partition.json")), home.read)
    except (FileNotFoundError, ValueError, CorruptError) as error:
        raise CorruptError(f"{home.uri}/partition.json is damaged or missing: {error}") from None


def recipe_of(store: Store) -> Recipe:
    """The recipe of a run directory. Raises UserError where there is none."""
    try:
        return with_own_classes(parse_recipe(_of_today(json.loads(store.read("recipe.json"))), imports=False), store)
    except FileNotFoundError:
        raise UserError(f"{store.uri} is not a run directory: it has no recipe.json") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptError(f"{store.uri}/recipe.json is damaged; delete it and run the same command again") from None
    except UserError as error:
        raise UserError(f"{store.uri}/recipe.json: {error}") from None


def _of_today(raw: dict[str, Any]) -> dict[str, Any]:
    """A kept recipe with what was true of all stages before it could be said."""
    return {**raw, "stages": {name: _stage_of_today(stage) for name, stage in raw["stages"].items()}}


def _stage_of_today(stage: dict[str, Any]) -> dict[str, Any]:
    stage = {"shared": False, **stage}
    if "optimizer" in stage:
        return stage
    options = {"gan_from": 0, **stage["options"]} if stage["objective"] == "sida" else stage["options"]
    return {**stage, "optimizer": "adamw", "fake_clip_value": 0.0, "options": options}


def has_ensemble(store: Store, ensemble: EnsemblePlan) -> bool:
    """Whether the ensemble is complete, and made of students trained as far as the plan asks."""
    try:
        return not flaw_of(store, ensemble)
    except FileNotFoundError:
        return False


def flaw_of(store: Store, ensemble: EnsemblePlan) -> str:
    """What is wrong with the ensemble, empty where nothing is. Raises FileNotFoundError where there is none."""
    where = folder(store, ensemble.directory)
    try:
        manifest = read_manifest(where)
        check_sizes(where, manifest, MAKES_AGAIN)
        trained = [s["nimg"] for s in manifest.body["students"]]
    except (CorruptError, KeyError) as error:
        return str(error)
    if trained != [student.spec.images for student in ensemble.students]:
        return f"the students of {where.uri} were trained on other numbers of images; {MAKES_AGAIN}"
    return ""


def refuse_unfinished(store: Store, ensembles: Iterable[EnsemblePlan]) -> None:
    """Raises UserError where an ensemble is not there or not whole, and says why."""
    for ensemble in ensembles:
        try:
            flaw = flaw_of(store, ensemble)
        except FileNotFoundError:
            raise UserError(f"{store.uri} has no finished {ensemble.name}: {how_far(store)}") from None
        if flaw:
            raise UserError(flaw)


def checkpoints_of(store: Store, student: StudentPlan) -> Checkpoints:
    return Checkpoints(folder(store, student.directory), student.spec.training.keep)


def images_of(store: Store, student: StudentPlan) -> int:
    """Images that the student has been trained on, as far as checkpoints tell. Reads no tensors."""
    newest = checkpoints_of(store, student).newest()
    return newest.nimg if newest else 0


def left_to_train(store: Store, ensemble: EnsemblePlan) -> list[StudentPlan]:
    """Its students that are not trained, and before them the trunks that one of these still has to branch off from."""
    left = [student for student in ensemble.students if images_of(store, student) < student.spec.images]
    for trunk in reversed(ensemble.trunks):
        wanted = any(student.trunk == trunk and not images_of(store, student) for student in left)
        if wanted and images_of(store, trunk) < trunk.spec.images:
            left.insert(0, trunk)
    return left


def assemble(store: Store, plan: Plan, ensemble: EnsemblePlan, images: int | None = None) -> None:
    """Makes the ensemble of its students' averaged weights or adapters, whose files it copies. images: that each must
    have been trained on, if not on all of the plan's. Raises UserError where one has not, or has no whole checkpoint of
    that any more; and as `base_of`."""
    members, base = [], _base(store, plan, ensemble)
    for student in ensemble.students:
        newest = checkpoints_of(store, student).newest()
        if newest is None or newest.nimg < (images or student.spec.images):
            raise UserError(f"{student.name} has not finished training; run the same command again")
        members.append(
            Member(
                index=student.spec.index,
                spec=student.spec.denoiser,
                sigma_init=student.spec.noise.sigma_init,
                nimg=newest.nimg,
                weights=newest.tensors("ema"),
                adapter=student.spec.adapter,
                base=base if student.spec.adapter else None,
            )
        )
    where, recipe = folder(store, ensemble.directory), plan.recipe.to_json()
    try:
        partition = kept_partition(folder(store, ensemble.home)) if still_to_learn(plan) else ensemble.partition
        save_ensemble(where, recipe, partition, plan.labels, members, plan.sampling, plan.recipe.codec)
    except CorruptError:
        for student in ensemble.students:
            checkpoints_of(store, student).discard_damaged()
        raise UserError("a student's checkpoint was damaged and is dropped; run the same command again") from None


def _base(store: Store, plan: Plan, ensemble: EnsemblePlan) -> SharedBase | None:
    """What lies under the adapters of its students, if they have any. Raises as `base_of`."""
    adapted = [student for student in ensemble.students if student.spec.adapter]
    if not adapted:
        return None
    trunk = folder(store, adapted[0].trunk.directory) if adapted[0].trunk else None
    return SharedBase(base_of(adapted[0].spec, trunk, teacher_in(store, plan)))


def weights_part(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the weights depend on."""
    said = recipe.to_json()
    part = {key: value for key, value in said.items() if key not in _WITHOUT_EFFECT_ON_WEIGHTS}
    part["training"] = {key: value for key, value in said["training"].items() if key not in ROUNDING}
    part["cluster"] = {"pool": {key: said["cluster"]["pool"][key] for key in ("deterministic", "wire")}}
    if recipe.partition.kind == KMEANS:  # which groups the conditions by their features
        part["evaluation"] = {"features": said["evaluation"]["features"]}
    return part


def first_difference(before: Any, now: Any, path: str) -> str:
    """`key (there A, here B)` of the first value in which two recipes differ; empty where they agree."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            found = first_difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return ""
    before, now = (list(v) if isinstance(v, tuple) else v for v in (before, now))
    return "" if before == now else f"{path} (there {before}, here {now})"
