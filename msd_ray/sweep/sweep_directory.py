"""A sweep's directory: its files, and the definition that it belongs to."""

import json
from collections.abc import Sequence
from typing import Any

from msd_ray.errors import CorruptError, UserError
from msd_ray.runs.run_directory import first_difference
from msd_ray.storage import Store
from msd_ray.sweep.definition import Definition, parse_definition
from msd_ray.sweep.pareto import pareto_front
from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.sweep_journal import SweepJournal, TrialRecord

FILE = "sweep.json"
FREE = ("budget", "trials", "keep")
"""Parts of a definition that may differ when the command is given again: no finished trial depends on them."""


def trial_store(store: Store, record: TrialRecord) -> Store:
    """The run directory of a trial."""
    return store.child("trials").child(f"{record.number:04d}")


def keep_definition(store: Store, recipe_space: RecipeSpace) -> None:
    store.write(FILE, json.dumps(_said(recipe_space), indent=1).encode())


def refuse_other_definition(store: Store, recipe_space: RecipeSpace) -> None:
    """Raises UserError if the directory holds a sweep with other trials."""
    if store.exists(FILE):
        before, now = (_fixed(said) for said in (_read(store), _plain(recipe_space)))
        if difference := first_difference(before, now, ""):
            raise UserError(f"{store.uri} holds a sweep with another {difference}; choose another --run-dir")


def read_definition(store: Store) -> Definition:
    """The definition of the sweep in a directory. Raises UserError if there is none."""
    said = _read(store)
    said.pop("bases", None)
    return parse_definition(f"{store.uri}/{FILE}", said)


def _read(store: Store) -> dict[str, Any]:
    """The definition and the recipes it starts from."""
    try:
        said = json.loads(store.read(FILE))
        if not isinstance(said, dict):
            raise TypeError("a definition is a mapping")
        return said
    except FileNotFoundError:
        raise UserError(f"{store.uri} holds no sweep: it has no {FILE}") from None
    except (ValueError, TypeError):
        raise CorruptError(f"{store.uri}/{FILE} is damaged; run the same command again") from None


def _fixed(said: dict[str, Any]) -> dict[str, Any]:
    """The part of the definition that trials depend on."""
    return {key: value for key, value in said.items() if key not in FREE}


def _said(recipe_space: RecipeSpace) -> dict[str, Any]:
    return {**recipe_space.definition.to_json(), "bases": recipe_space.bases}


def _plain(recipe_space: RecipeSpace) -> dict[str, Any]:
    """The definition as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(_said(recipe_space)))
    return plain


WEIGHTS = ("ensemble", "students", "baselines", "teacher")


def superfluous(records: Sequence[TrialRecord], definition: Definition) -> list[TrialRecord]:
    """The ended trials whose weights still exist and are not to be kept. A beaten trial stays beaten, so no trial is
    pruned that would be kept later."""
    ended = [r for r in records if r.state != "running" and r.kept]
    if definition.keep == "all":
        return []
    metrics = definition.metrics
    if definition.keep == "best":
        first = next(iter(metrics))
        metrics = {first: metrics[first]}
    stays = pareto_front(records, metrics)
    stays = stays[:1] if definition.keep == "best" else stays
    return [r for r in ended if r not in stays]


def prune(store: Store, definition: Definition, journal: SweepJournal) -> None:
    """Removes the weights of superfluous trials, but not their recipes, journals and pictures."""
    for record in superfluous(journal.records, definition):
        for name in WEIGHTS:
            trial_store(store, record).delete(name)
        journal.prune(record.number)
