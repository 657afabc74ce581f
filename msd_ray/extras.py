"""Libraries that only some commands need, and that are installed by an extra."""

import logging
from importlib import import_module
from typing import Any

from msd_ray.errors import UserError


def needed(module: str, extra: str) -> Any:
    """The module, imported now. Raises UserError where it, or what it imports, is not installed. extra: what brings
    it."""
    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # it warns of kernels for other things; diffusers loads it
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {error.name}: pip install 'msd-ray[{extra}]'") from None
