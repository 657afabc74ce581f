"""The recipes that a sweep may try, and the check that they can share one teacher, one data set and one judge."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from msd_ray.codecs import load_codec
from msd_ray.data import DataSet, load_data
from msd_ray.errors import UserError
from msd_ray.evaluation import FeatureNet, load_features
from msd_ray.recipes import Recipe, load_recipe, parse_recipe
from msd_ray.recipes.load import with_overrides
from msd_ray.runs.init_weights import check_init
from msd_ray.runs.plan import Plan, make_plan
from msd_ray.runs.run_directory import first_difference
from msd_ray.storage import default_cache
from msd_ray.sweep.definition import Definition
from msd_ray.sweep.milestones import check_scheduler
from msd_ray.sweep.search_space import (
    Choice,
    Options,
    Space,
    changes_of,
    combinations,
    draws,
    grid,
    parse_space,
    probes,
)
from msd_ray.validation import shortened

COMMON = ("data", "network", "teacher", "codec", "evaluation", "cluster")
"""Parts of a recipe that are the same in all trials."""
BASE = "recipe"
"""The path that, in the space, stands for the base recipe itself."""


@dataclass(frozen=True)
class RecipeSpace:
    """bases: the recipes that trials start from, by name."""

    definition: Definition
    space: Space
    bases: dict[str, Any]

    @staticmethod
    def of(definition: Definition) -> "RecipeSpace":
        """Raises UserError if the space is not valid, or a recipe that it names is wrong."""
        space = parse_space(definition.space)
        names = {definition.recipe}
        for dimension in space:
            if isinstance(dimension, Options):
                names |= {str(changes[BASE]) for changes in dimension.changes.values() if BASE in changes}
        return RecipeSpace(definition, space, {name: load_recipe(name).to_json() for name in sorted(names)})

    def recipe(self, number: int, choice: Choice) -> Recipe:
        """The recipe of one trial. Raises UserError if a value does not fit a recipe."""
        changes = {**self.definition.overrides, **changes_of(self.space, choice)}
        name = str(changes.pop(BASE, self.definition.recipe))
        if name not in self.bases:
            raise UserError(f"{BASE}: {shortened(name)} is named neither by `recipe` nor by a list in `space`")
        base = self.bases[name]
        changes["name"] = f"{self.definition.name}-{number:04d}"
        overrides = [f"{path}={json.dumps(value)}" for path, value in changes.items()]
        return parse_recipe(with_overrides(json.loads(json.dumps(base)), overrides))

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of one trial. Raises UserError if the recipe's parts do not fit each other or the data."""
        return make_plan(recipe, self.data, lambda: self.features)

    @cached_property
    def listed(self) -> list[Choice] | None:
        """All trials of the sweep if they are known beforehand, None if each depends on those before it."""
        definition = self.definition
        if definition.searcher.kind == "optuna":
            return None
        if definition.searcher.kind == "grid":
            return grid(self.space)[: definition.budget.trials]
        return draws(self.space, definition.searcher.seed, self.most)

    def check(self) -> list[Plan]:
        """The plans of all trials, or of enough of them to meet every value of the space once. Raises UserError for the
        first that is no recipe or cannot share with the others what trials share, and if the scheduler can stop
        none."""
        plans = list(self._checked())
        check_scheduler(self.definition.scheduler, plans)
        return plans

    def _checked(self) -> Iterator[Plan]:
        choices = list(probes(self.space)) if self.listed is None else self.listed
        for number, choice in enumerate(choices):
            recipe = self.recipe(number, choice)
            _refuse_strangers(self.first, recipe, choice)
            try:
                plan = self.plan(recipe)
                check_init(plan)
            except UserError as error:
                raise UserError(f"{said(choice)}: {error}") from None
            yield plan

    @property
    def most(self) -> int:
        """Trials of a search that has no end of its own: the budget's, or all different ones if these are fewer."""
        wanted, different = self.definition.budget.trials or 0, combinations(self.space)
        return wanted if different is None else min(wanted, different)

    @cached_property
    def first(self) -> Recipe:
        """Any of the plans, for what is the same in all."""
        return self.recipe(0, next(probes(self.space)))

    @cached_property
    def data(self) -> DataSet:
        return load_data(self.first.data)

    @cached_property
    def features(self) -> FeatureNet:
        """Trains the feature network now, if it needs training and the cache does not have it."""
        first = self.first
        config, codec = first.evaluation, load_codec(first.codec)
        return load_features(config.features, self.data, default_cache(), codec, config.files)


def said(choice: Choice) -> str:
    """A choice as text."""
    return ", ".join(f"{name}={_short(value)}" for name, value in choice.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _refuse_strangers(first: Recipe, other: Recipe, choice: Choice) -> None:
    """Raises UserError if two trials could not share teacher, data, judge and cluster."""
    one, two = ({**r.to_json(), "sigma_data": r.noise.sigma_data} for r in (first, other))
    for part in (*COMMON, "sigma_data"):
        if difference := first_difference(one[part], two[part], part):
            raise UserError(f"space, {said(choice)}: {difference}; all trials of a sweep share {', '.join(COMMON)}")
    if other.cluster.shares:
        raise UserError("cluster.workers_per_student: a sweep trains each student in one process; set it to [1, 1]")
