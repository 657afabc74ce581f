"""What a student starts from: the teacher's weights if they fit, another run's student, or random weights."""

from dataclasses import dataclass

import torch

from msd_ray.conditions import Owned
from msd_ray.diffusion import Denoiser, EDMDenoiser
from msd_ray.ensemble import Description, read_description, read_member
from msd_ray.errors import CorruptError, UserError
from msd_ray.networks import Adapter
from msd_ray.own_code import refuse_strange
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_directory import ensemble_folder, folder, recipe_of
from msd_ray.storage import Store
from msd_ray.teachers import TeacherSource
from msd_ray.training.checkpoints import Checkpoint, Checkpoints
from msd_ray.training.config import StageConfig
from msd_ray.training.state import Tensors
from msd_ray.training.student_spec import StudentSpec


def starting_weights(
    spec: StudentSpec, owned: Owned, teacher: TeacherSource, init: str, loaded: Denoiser | None = None
) -> tuple[Tensors | None, Tensors | None]:
    """Weights that the generator and its fake score start from; None for fresh ones, or for the fake score the
    generator's. The fake score starts as the teacher wherever their shapes agree. loaded: the teacher, where it is in
    memory already."""
    taught, shape = None, teacher.spec
    if shape and shape.network == spec.denoiser.network:
        rounded = spec.training.precision == "bf16"  # as it is in memory
        taught = loaded.state_dict() if isinstance(loaded, EDMDenoiser) and not rounded else teacher.weights()
    if not init:
        return taught, taught
    known = read_description(ensemble_folder(init))
    return read_member(known, _nearest(known, owned)).read(), taught


@dataclass(frozen=True)
class InitStudent:
    """A student of another run, with the stage that it ended in."""

    checkpoint: Checkpoint
    stage: StageConfig


def student_of_init(init: str, owned: Owned) -> InitStudent | None:
    """The student that owns most of these conditions in the run that `init` names; None where it is only an ensemble,
    or has an adapter, or its fake score. Raises UserError if its method is code that nobody allowed."""
    run = Store(init)
    if not init or not run.exists("recipe.json"):
        return None
    known = read_description(ensemble_folder(init))
    number = _nearest(known, owned)
    checkpoint = Checkpoints(folder(run, f"students/{number:04d}"), 1).newest()
    if checkpoint is None or read_member(known, number).adapter:
        return None
    recipe = recipe_of(run)
    if isinstance(recipe.students.get(number, recipe.student).fake_adapter, Adapter):
        return None
    try:
        stage = recipe.stages[checkpoint.meta()["stage"]]
    except KeyError:
        raise CorruptError(f"init: student {number} of {run.uri} has a checkpoint of no stage of its recipe") from None
    refuse_strange(stage.objective, "objective", f"init: {run.uri}")
    return InitStudent(checkpoint, stage)


def what_init_lacks(plan: Plan) -> str:
    """A line where the recipe lets students go on from another run's checkpoints and it has none; empty otherwise."""
    ensemble, init = plan.ensembles[0], plan.recipe.init
    owned = [ensemble.partition.owned_by(student.spec.index, plan.conditions) for student in ensemble.students]
    if not init or not plan.first.goes_on_from_another_run or all(student_of_init(init, mine) for mine in owned):
        return ""
    return f"init: {init} has an ensemble but no checkpoints of all its students: only their averaged weights go on"


def check_init(plan: Plan) -> None:
    """Raises UserError if the recipe's `init` names no ensemble of students like those of the plan."""
    if not plan.recipe.init:
        return
    known = read_description(ensemble_folder(plan.recipe.init))
    if list(known.labels) != list(plan.labels):
        raise UserError(f"init: the ensemble at {known.store.uri} is of other conditions")
    if known.partition.borders:
        raise UserError(f"init: the students at {known.store.uri} share the noise levels; none of them is a start")
    for ensemble in plan.ensembles:
        for student in ensemble.students:
            owned = ensemble.partition.owned_by(student.spec.index, plan.conditions)
            there, here = read_member(known, _nearest(known, owned)).spec, student.spec.denoiser
            if there.network != here.network:
                raise UserError(f"init: the students at {known.store.uri} have another shape than {student.name}")
            if there.preconditioning != here.preconditioning:
                raise UserError(f"init: the students at {known.store.uri} have another preconditioning")


def _nearest(known: Description, owned: Owned) -> int:
    """The student there that owns most of the conditions of this one; the lowest where several do."""
    places = known.partition.place(owned.conditions, owned.conditions.asked(owned.ids))
    return int(torch.bincount(torch.tensor([place.part for place in places])).argmax())
