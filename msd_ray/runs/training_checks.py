"""What a recipe asks of training and cannot have."""

from collections.abc import Callable, Mapping

from msd_ray.conditions import Classes, Conditions
from msd_ray.errors import UserError
from msd_ray.objectives import Needs
from msd_ray.recipes import Recipe
from msd_ray.training.optimizer_state import byte_levels

TAKE_CLASS_VECTORS = ("unet", "mlp", "songunet")
"""Networks that take a class as a vector, which may be shorter or longer, or none."""


def check_training(recipe: Recipe) -> None:
    """Raises UserError in one line."""
    if recipe.training.optimizer_state == "int8":
        byte_levels()
    if recipe.training.sharding == "full":
        for problem in _UNDIVIDED:
            if said := problem(recipe):
                raise UserError(said)


def _adapters(recipe: Recipe) -> str:
    sizes = {"student": recipe.student} | {f"students.{i}": size for i, size in recipe.students.items()}
    adapted = [name for name, size in sizes.items() if size.adapter or not isinstance(size.fake_adapter, str)]
    return (
        f"training.sharding: full divides all weights; leave {adapted[0]}.adapter and fake_adapter out"
        if adapted
        else ""
    )


def _compiled(recipe: Recipe) -> str:
    """Weights come and go between a network's blocks."""
    wrong = [name for name in ("compile", "replay") if getattr(recipe.training, name)]
    return f"training.sharding: full and training.{wrong[0]} exclude each other" if wrong else ""


def _eight_bits(recipe: Recipe) -> str:
    wrong = "training.sharding: full keeps averages by the piece, of which a checkpoint has no 8 bits"
    return f"{wrong}; write training.optimizer_state=fp32 or host" if recipe.training.optimizer_state == "int8" else ""


def _uneven(recipe: Recipe) -> str:
    """Workers gather weights for each other, so each must have as many shards as the others."""
    (fewest, most), shards = recipe.cluster.workers_per_student, recipe.training.shards
    uneven = [n for n in range(fewest, most + 1) if shards % n]
    return (
        f"training.sharding: {shards} shards are not the same number for each of {uneven[0]} workers; make "
        f"training.shards a multiple of all from {fewest} to {most} (cluster.workers_per_student)"
        if uneven
        else ""
    )


def _shared_gpus(recipe: Recipe) -> str:
    gpus = recipe.cluster.gpus_per_student
    wrong = f"training.sharding: full needs a whole GPU for each worker, or none, not {gpus:g}"
    return f"{wrong}; write cluster.gpus_per_student=1" if 0 < gpus < 1 else ""


def _experts(recipe: Recipe) -> str:
    """VDD asks for densities, past the pass of the network in which weights are gathered."""
    mixtures = recipe.student.experts or any(size.experts for size in recipe.students.values())
    return "training.sharding: full does not divide mixtures of experts; write none" if mixtures else ""


_UNDIVIDED: tuple[Callable[[Recipe], str], ...] = _adapters, _compiled, _eight_bits, _uneven, _shared_gpus, _experts


def check_no_class(recipe: Recipe, conditions: Conditions, needs: Mapping[str, Needs]) -> None:
    """Raises UserError where a teacher cannot learn to do without a class, or a stage needs one that has."""
    takes = isinstance(conditions, Classes) and recipe.network.kind in TAKE_CLASS_VECTORS
    if recipe.teacher.dropped and not takes:
        raise UserError(
            f"teacher.dropped: only networks of {', '.join(TAKE_CLASS_VECTORS)} learn to do without a class number; "
            "leave it out"
        )
    asking = [name for name, of_stage in needs.items() if of_stage.guidance is not None]
    if asking and not recipe.teacher.dropped:
        raise UserError(
            f"stages.{asking[0]}: {recipe.stages[asking[0]].objective} asks the teacher for no class as well, which "
            "it learns only if it is trained here; write teacher.dropped=0.1"
        )
