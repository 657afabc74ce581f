"""Code of a user's own that a recipe names as `module:attribute`."""

from importlib import import_module
from typing import Any

from msd_ray.errors import UserError, one_line


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
