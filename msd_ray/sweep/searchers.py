"""Searchers choose the trials. The controller asks for trial after trial and reports how each ended, in an order that
the journal keeps; the same calls give the same choices again."""

from typing import Any, Protocol

import optuna
from optuna.study import StudyDirection

from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.search_space import TRIES, Choice, Options, Range, another
from msd_ray.sweep.trial_metrics import Report


class Searching(Protocol):
    """most: how many trials it chooses."""

    most: int

    def choose(self, number: int) -> Choice:
        """The trial of that number, below `most`."""
        ...

    def ended(self, number: int, report: Report | None) -> None:
        """Takes the result of a trial. report: its last, None if the trial failed."""
        ...


def searching(recipe_space: RecipeSpace) -> Searching:
    """Of the sweep."""
    return Tree(recipe_space) if recipe_space.listed is None else Listed(recipe_space.listed)


class Listed:
    """A list of trials, known beforehand."""

    def __init__(self, choices: list[Choice]) -> None:
        self._choices, self.most = choices, len(choices)

    def choose(self, number: int) -> Choice:
        return self._choices[number]

    def ended(self, number: int, report: Report | None) -> None:
        """Ignores the result."""


class Tree:
    """Optuna's tree-structured Parzen estimator, on one metric or several."""

    def __init__(self, recipe_space: RecipeSpace) -> None:
        definition = recipe_space.definition
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(
            seed=definition.searcher.seed, constant_liar=definition.trials.concurrent > 1
        )
        of_mode = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        directions = [of_mode[mode] for mode in definition.metrics.values()]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        self._space = {dimension.name: _distribution(dimension) for dimension in recipe_space.space}
        self._metrics = list(definition.metrics)
        self.most, self._dimensions = recipe_space.most, recipe_space.space
        self._asked: dict[int, optuna.Trial] = {}
        self._known: list[Choice] = []

    def choose(self, number: int) -> Choice:
        self._asked[number] = trial = self._new()
        self._known.append(dict(trial.params))
        return dict(trial.params)

    def _new(self) -> optuna.Trial:
        """A trial with other values than any before. Optuna itself repeats trials in a finite space."""
        for _ in range(TRIES):
            trial = self._study.ask(self._space)
            if trial.params not in self._known:
                return trial
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._study.enqueue_trial(another(self._dimensions, self._known))
        return self._study.ask(self._space)

    def ended(self, number: int, report: Report | None) -> None:
        values: list[Any] = [getattr(report, metric) for metric in self._metrics] if report else [None]
        failed = any(value is None for value in values)
        trial = self._asked.pop(number)
        self._study.tell(trial, None if failed else values, optuna.trial.TrialState.FAIL if failed else None)


def _distribution(dimension: Options | Range) -> Any:
    if isinstance(dimension, Options):
        return optuna.distributions.CategoricalDistribution(dimension.labels)
    if dimension.kind == "integer":
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high))
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.kind == "log")
