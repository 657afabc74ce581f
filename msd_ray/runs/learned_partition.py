"""Which recipes can learn how to divide the classes, from what the trunk has still to learn of each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msd_ray.conditions import Conditions
from msd_ray.conditions.partition_config import LEARNED
from msd_ray.errors import UserError
from msd_ray.objectives import Needs
from msd_ray.recipes import Recipe

if TYPE_CHECKING:
    from msd_ray.runs.plan import Plan


def still_to_learn(plan: "Plan") -> bool:
    """Whether the classes are divided only once the trunk is trained, which it is not yet."""
    return plan.recipe.partition.kind == LEARNED and plan.ensembles[0].partition.kind != LEARNED


def check_learnable(recipe: Recipe, conditions: Conditions, needs: Mapping[str, Needs]) -> None:
    """Raises UserError where the partition is to be learned and cannot be. needs: of each stage."""
    if recipe.partition.kind != LEARNED:
        return
    if conditions.is_open:
        raise UserError("partition.kind: learned divides classes; of prompts write kmeans, quadrants or keywords")
    shared = [name for name, stage in recipe.stages.items() if stage.groups]
    if not shared:
        raise UserError(
            "partition.kind: learned divides the classes after a trunk: write shared: true into a first stage"
        )
    if groups := next((name for name in shared if recipe.stages[name].groups > 1), ""):
        raise UserError(
            f"stages.{groups}.shared: before the classes are divided (partition.kind: learned) it must be true"
        )
    last = shared[-1]
    if needs[last].pairs or needs[last].memory:
        raise UserError(
            f"partition.kind: learned compares what the loss says of each class alone, and that of "
            f"{recipe.stages[last].objective} (stages.{last}) depends on others; end the trunk with another objective"
        )
    if recipe.cluster.shares:
        raise UserError(
            "partition.kind: learned needs one process per student; set cluster.workers_per_student to [1, 1]"
        )
