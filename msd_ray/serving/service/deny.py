"""The operator's own function that refuses prompts before anything is made of them."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from msd_ray.conditions import Condition
from msd_ray.errors import UserError, named
from msd_ray.own_code import imported
from msd_ray.serving.protocol.refusal import Refusal, wrong

LOG = logging.getLogger(__name__)
Deny = Callable[[str], str]
"""Of a prompt in its normal form: why it is refused, empty if it is not."""


def function_of(name: str, key: str) -> Any:
    """The operator's function that the key `limits.<key>` names; None without a name. Raises UserError where it cannot
    be had."""
    if not name:
        return None
    found = imported(name, f"limits.{key}")
    if not callable(found):
        raise UserError(f"limits.{key}: {name} is not a function")
    return found


def refuse_denied(deny: Deny, asked: Iterable[tuple[int, Condition]]) -> None:
    """asked: by their place in a request, as `Conditions.id_of` gives them. Raises Refusal for the first prompt that is
    denied, or that the function gives no text for. Each is asked about once, however many images are made of it."""
    allowed = set[str]()
    for index, prompt in asked:
        if not isinstance(prompt, str) or prompt in allowed:
            continue
        try:
            why = str(deny(prompt) or "")
        except Exception as error:  # whatever the operator's function does: then nothing is made
            LOG.warning("limits.deny: %s", named(error))
            raise Refusal("INTERNAL", "the service's deny list failed; nothing was made") from None
        if why:
            raise wrong(f"conditions[{index}]", why)
        allowed.add(prompt)
