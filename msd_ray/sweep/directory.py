"""A sweep's directory: what lies where, and whose it is."""

import json
from typing import Any

from msd_ray.errors import CorruptError, UserError
from msd_ray.runs.directory import first_difference
from msd_ray.storage import Store
from msd_ray.sweep.family import Family
from msd_ray.sweep.ledger import Record
from msd_ray.sweep.load import parse_definition
from msd_ray.sweep.schema import Definition

FILE = "sweep.json"
FREE = ("budget", "trials", "keep")
"""Parts of a definition that may differ when the command is given again: no finished trial depends on them."""


def trial_store(store: Store, record: Record) -> Store:
    """The run directory of a trial."""
    return store.child("trials").child(f"{record.number:04d}")


def keep_definition(store: Store, family: Family) -> None:
    store.write(FILE, json.dumps(_said(family), indent=1).encode())


def refuse_other_definition(store: Store, family: Family) -> None:
    """Raises UserError where the directory holds a sweep whose trials would have been others."""
    if store.exists(FILE):
        before, now = (_fixed(said) for said in (_read(store), _plain(family)))
        if difference := first_difference(before, now, ""):
            raise UserError(f"{store.uri} holds a sweep with another {difference}; choose another --run-dir")


def read_definition(store: Store) -> Definition:
    """The definition of the sweep in a directory. Raises UserError where there is none."""
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
    """What trials depend on."""
    return {key: value for key, value in said.items() if key not in FREE}


def _said(family: Family) -> dict[str, Any]:
    return {**family.definition.to_json(), "bases": family.bases}


def _plain(family: Family) -> dict[str, Any]:
    """As it is read back."""
    plain: dict[str, Any] = json.loads(json.dumps(_said(family)))
    return plain
