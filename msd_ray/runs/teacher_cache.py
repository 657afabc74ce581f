"""Where a trained teacher is kept: in a cache, by the hash of what determines it, and in each run that used it."""

from collections.abc import Callable
from typing import Any

import torch

from msd_ray.conditions import ConditionsSpec
from msd_ray.conditions import identity as conditions_identity
from msd_ray.data import identity, load_data
from msd_ray.diffusion import Denoiser, unguided
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec
from msd_ray.recipes import Recipe
from msd_ray.runs.plan import Plan
from msd_ray.storage import Store, copy_bundle, digest, refuse_unwritable
from msd_ray.teachers import TeacherSource
from msd_ray.teachers.kept_teacher import KeptTeacher, has_teacher, keep
from msd_ray.training import precision
from msd_ray.training.config import TrainingConfig
from msd_ray.training.state import State
from msd_ray.training.teacher_trainer import TeacherTrainer

REPORTS = 20  # while a teacher trains
_WITHOUT_EFFECT = ("steps", "churn", "guidance", "source", "options")
"""On the weights of a teacher that is trained here."""
_TRAINER_VERSION = 1  # to be raised when TeacherTrainer makes something else of the same recipe


def cached_in(cache: Store, recipe: Recipe, spec: DenoiserSpec) -> Store:
    """The folder of this teacher; its name is the hash of everything that its weights depend on."""
    said = recipe.to_json()
    training = {key: value for key, value in said["teacher"].items() if key not in _WITHOUT_EFFECT}
    if not training["dropped"]:
        del training["dropped"]  # the names of caches are older
    own = conditions_identity(recipe.conditions, lambda: load_data(recipe.data).labels)
    return cache.child(f"teacher-{digest([_TRAINER_VERSION, spec.to_json(), identity(recipe.data), training, *own])}")


def teacher_in(store: Store, plan: Plan) -> TeacherSource:
    """The teacher of a run or sweep in the directory `store`: where the plan has none, the one that was trained."""
    return plan.source or KeptTeacher(store.child("teacher"))


def load_teacher(
    teacher: TeacherSource, device: torch.device | str = "cpu", training: TrainingConfig | None = None
) -> Denoiser:
    """The teacher, frozen. training: how it computes, if it is one of our denoisers; in fp32 if None."""
    denoiser = teacher.open(torch.device(device))
    if own := unguided(denoiser):
        precision.apply_frozen(own, training or TrainingConfig())
    return denoiser


def keep_teacher(store: Store, spec: DenoiserSpec, state: State, conditions: ConditionsSpec | None = None) -> None:
    """Keeps the averaged weights of a trained teacher, given the state of its trainer. conditions: what it is asked
    for, if not class numbers."""
    body: dict[str, Any] = {"facts": {name: state.meta[name] for name in ("nimg", "wall_seconds", "cpu_seconds")}}
    if conditions:
        body["conditions"] = conditions.to_json()
    keep(store, spec, state.tensors["ema"], body)


def copy_teacher(source: Store, target: Store) -> None:
    """From a cache into a run."""
    copy_bundle(source, target)


def train_here(plan: Plan, cache: Store, say: Callable[[str], None]) -> Store:
    """Trains the plan's teacher in this process, unless the cache has it; returns its folder in the cache. Raises
    UserError where the recipe brings a teacher."""
    if plan.source:
        raise UserError(f"there is nothing to train: the teacher comes from {plan.recipe.teacher.origin}")
    recipe, folder = plan.recipe, cached_in(cache, plan.recipe, plan.teacher)
    if not has_teacher(folder):
        refuse_unwritable(cache, "set MSD_RAY_CACHE to a folder that can be written")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trainer = TeacherTrainer(
            recipe.teacher, plan.teacher, recipe.noise, load_data(recipe.data).train, plan.conditions, device
        )
        while not trainer.done:
            (loss,) = trainer.advance(recipe.teacher.images // REPORTS + 1)
            say(f"teacher  {trainer.nimg / 1000:.1f}/{recipe.teacher.images / 1000:g} kimg  loss {loss.value:.3f}")
        keep_teacher(folder, plan.teacher, trainer.state_dict(), plan.conditions_spec)
    return folder
