"""The facts that all commands on one run share."""

from dataclasses import dataclass
from functools import cached_property

from msd_ray.codecs import Codec, load_codec
from msd_ray.conditions import Conditions, make_conditions
from msd_ray.data import DataSet, load_data
from msd_ray.evaluation import FeatureNet, load_features
from msd_ray.recipes import Recipe, load_recipe, parse_recipe
from msd_ray.recipes.load import with_overrides
from msd_ray.runs.compatibility import without_imports
from msd_ray.runs.plan import Plan, make_plan
from msd_ray.runs.run_directory import recipe_of, shared_as_kept, with_learned, with_own_classes
from msd_ray.storage import Store, default_cache


@dataclass(frozen=True)
class RunContext:
    """A recipe and the directory of its run; everything else is derived at its first use. imports: whether the user's
    own objectives are imported. Commands that do not train never import those that a directory names."""

    recipe: Recipe
    store: Store
    imports: bool = True

    @staticmethod
    def of(recipe: str, overrides: list[str] | None, run_dir: str | None) -> "RunContext":
        """The context of a recipe and overrides that a user typed. Raises UserError if any of it is wrong."""
        loaded = load_recipe(recipe, overrides)
        store = Store(run_dir or f"runs/{loaded.name}")
        return RunContext(with_own_classes(shared_as_kept(loaded, store), store), store)

    @staticmethod
    def of_run(store: Store, overrides: list[str]) -> "RunContext":
        """The context of a run directory, with overrides of its recipe. Raises UserError if it is no run directory."""
        changed = with_overrides(recipe_of(store).to_json(), overrides)
        return RunContext(parse_recipe(changed, imports=False), store, imports=False)

    @cached_property
    def cache(self) -> Store:
        return default_cache()

    @cached_property
    def data(self) -> DataSet:
        return load_data(self.recipe.data)

    @cached_property
    def conditions(self) -> Conditions:
        return make_conditions(self.recipe.conditions, self.data.labels)

    @cached_property
    def codec(self) -> Codec:
        return load_codec(self.recipe.codec)

    @cached_property
    def features(self) -> FeatureNet:
        """The feature network; trained now if it needs training and the cache does not have it."""
        config = self.recipe.evaluation
        return load_features(config.features, self.data, self.cache, self.codec, config.files)

    @property
    def plan(self) -> Plan:
        """The plan, with the partition that the run has learned by now. Raises UserError if the recipe's parts do not
        fit each other."""
        return with_learned(self._plan, self.store)

    @cached_property
    def _plan(self) -> Plan:
        recipe = self.recipe if self.imports else without_imports(self.recipe)
        return make_plan(recipe, self.data, lambda: self.features)
