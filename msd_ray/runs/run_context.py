"""Everything that the commands on one run need to know."""

from dataclasses import dataclass
from functools import cached_property

from msd_ray.data import DataSet, load_data
from msd_ray.evaluation import FeatureNet, load_features
from msd_ray.recipes import Recipe, load_recipe, parse_recipe
from msd_ray.recipes.load import with_overrides
from msd_ray.runs.compatibility import without_imports
from msd_ray.runs.plan import Plan, make_plan
from msd_ray.runs.run_directory import recipe_of
from msd_ray.runs.teacher_cache import default_cache
from msd_ray.storage import Store


@dataclass(frozen=True)
class RunContext:
    """A recipe and where its run is. What follows from them is made when it is first asked for. imports: whether
    objectives of the user's own are; not those that a directory names, for commands that do not train."""

    recipe: Recipe
    store: Store
    imports: bool = True

    @staticmethod
    def of(recipe: str, overrides: list[str] | None, run_dir: str | None) -> "RunContext":
        """From what a user typed. Raises UserError where any of it is wrong."""
        loaded = load_recipe(recipe, overrides)
        return RunContext(loaded, Store(run_dir or f"runs/{loaded.name}"))

    @staticmethod
    def of_run(store: Store, overrides: list[str]) -> "RunContext":
        """Of a run directory, its recipe changed by `overrides`. Raises UserError where it is none."""
        changed = with_overrides(recipe_of(store).to_json(), overrides)
        return RunContext(parse_recipe(changed, imports=False), store, imports=False)

    @cached_property
    def cache(self) -> Store:
        return default_cache()

    @cached_property
    def data(self) -> DataSet:
        return load_data(self.recipe.data)

    @cached_property
    def features(self) -> FeatureNet:
        """Trained now, if it is one that has to be and the cache has it not."""
        return load_features(self.recipe.evaluation.features, self.data, self.cache)

    @cached_property
    def plan(self) -> Plan:
        """Raises UserError where the recipe's parts do not fit each other."""
        recipe = self.recipe if self.imports else without_imports(self.recipe)
        return make_plan(recipe, self.data, lambda: self.features)
