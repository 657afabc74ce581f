"""Recipes: YAML in, one validated frozen `Recipe` out."""

from msd_ray.recipes.load import load_recipe, parse_recipe
from msd_ray.recipes.schema import ClusterConfig, PoolConfig, Recipe

__all__ = ["ClusterConfig", "PoolConfig", "Recipe", "load_recipe", "parse_recipe"]
