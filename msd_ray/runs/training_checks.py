"""What a recipe's `training` asks for and cannot have here."""

from msd_ray.recipes import Recipe
from msd_ray.training.optimizer_state import byte_levels


def check_training(recipe: Recipe) -> None:
    """Raises UserError in one line."""
    if recipe.training.optimizer_state == "int8":
        byte_levels()
