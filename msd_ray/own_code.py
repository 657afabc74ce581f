"""Code of a user's own that a recipe names as `module:attribute`.

What a user types is trusted: the modules of a recipe that is given to a command are imported. What only a directory
names (a run, an ensemble) may come from somebody else, so it is imported only from modules that the environment
variable MSD_RAY_OWN_CODE lists. A command adds those of its recipe to the list, for itself and for the processes that
it starts: they read what it writes.
"""

import os
import re
from importlib import import_module
from typing import Any

from msd_ray.errors import UserError, one_line

VARIABLE = "MSD_RAY_OWN_CODE"
_PLAIN = re.compile(r"[\w.]+:\w+")


def is_own(name: str) -> bool:
    """Whether `name` is that of a user's own code rather than of something built in."""
    return ":" in name


def imported(name: str, key: str) -> Any:
    """What `module:attribute` names. key: of the recipe, for the message. Raises UserError where it cannot be had."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(f"{key}: {name!r} cannot be imported: {one_line(error)}") from None


def allow(name: str) -> None:
    """Adds the module of `name`, which a user typed, to the list."""
    module = name.partition(":")[0]
    if is_own(name) and not _is_allowed(module):
        os.environ[VARIABLE] = ",".join([*_allowed(), module])


def refuse_strange(name: str, key: str, where: str) -> None:
    """Raises UserError where `name`, which only a directory has as its `key`, is code of a module that is not listed.
    where: what that directory is, for the message."""
    module = name.partition(":")[0]
    if is_own(name) and not _PLAIN.fullmatch(name):
        raise UserError(f"{where} names {name!r} as its {key}, which is not of the form module:Class")
    if is_own(name) and not _is_allowed(module):
        raise UserError(
            f"{where} names {name} as its {key}, which is code that may be somebody else's: if you trust it, set "
            f"{VARIABLE}={','.join([*_allowed(), module])}"
        )


def environment() -> dict[str, str]:
    """What processes that Ray starts, also on other machines, need in theirs to import what this one may."""
    return {VARIABLE: os.environ[VARIABLE]} if _allowed() else {}


def _is_allowed(module: str) -> bool:
    """Whether it, or a package that it is in, is listed."""
    return any(f"{module}.".startswith(f"{package}.") for package in _allowed())


def _allowed() -> list[str]:
    return [name for entry in os.environ.get(VARIABLE, "").split(",") if (name := entry.strip())]
