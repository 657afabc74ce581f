"""Bearer tokens of the callers. They come from a file, which may change at any time, or from the environment."""

import hashlib
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from msd_ray.errors import UserError
from msd_ray.ranges import Amount, CountOrNone, ImagesOrNone
from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.validation import made_of

VARIABLE = "MSD_RAY_TOKENS"
LOOK_AGAIN = 1.0  # seconds between looks at the file
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who has a token. name: for logs; tokens of one name count as one caller. weight: its share while several wait.
    images_per_second, burst, images_per_day: as in Limits, which hold where these are None."""

    name: str = ""
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    images_per_second: Amount | None = None
    burst: CountOrNone | None = None
    images_per_day: ImagesOrNone | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._@-]{0,64}", self.name):
            raise ValueError("a name is of 1 to 64 letters, digits, dots, dashes, _ and @")


ANYBODY = Caller("anybody")
"""All callers of a service that asks for no token."""


class Tokens:
    """Without a file and without the environment variable all callers are accepted; with an empty file none is."""

    def __init__(self, path: str = "") -> None:
        """path: of a file with one token per line, without empty lines and those with #; empty for none. Without a file
        the environment variable MSD_RAY_TOKENS is used, whose tokens are separated by commas. After a token there may
        be fields of Caller, such as name=alice. Raises UserError where those of the variable are wrong."""
        self._path, self._looked = Path(path) if path else None, -LOOK_AGAIN
        self._callers = {} if path else callers_of(os.environ.get(VARIABLE, "").split(","))
        self.needed = bool(self._path or self._callers)

    def caller(self, authorization: str) -> Caller:
        """Who sends this value of an Authorization header. Raises Refusal unless it is `Bearer` and a token that is
        valid now. The time that takes does not tell how much of a token was right."""
        if not self.needed:
            return ANYBODY
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal("UNAUTHENTICATED", "a token is needed: send the header `authorization: Bearer <token>`")
        digest, found = _digest(token.strip()), None
        for known, caller in self._current().items():
            if hmac.compare_digest(digest, known):
                found = caller
        if found is None:
            raise Refusal("UNAUTHENTICATED", "this token is not valid")
        return found

    def _current(self) -> dict[bytes, Caller]:
        if self._path and time.monotonic() - self._looked >= LOOK_AGAIN:
            self._looked = time.monotonic()
            try:
                self._callers = callers_of(self._path.read_text().splitlines())
            except (OSError, ValueError, UserError) as error:  # such a file must neither refuse all nor accept all
                LOG.error("cannot read the tokens: %s; those read before stay valid", error)
        return self._callers


def callers_of(lines: Sequence[str]) -> dict[bytes, Caller]:
    """The digest of each token, and whose it is. Raises UserError, which says nothing of what a line has."""
    found = {}
    for number, line in enumerate(lines, 1):
        token, *said = line.split() or ["#"]
        if not token.startswith("#"):
            digest = _digest(token)
            try:
                caller = made_of(Caller, dict(map(_field, said)))
            except ValueError:
                raise UserError(f"line {number} of the tokens: {FIELDS}") from None
            found[digest] = caller if caller.name else replace(caller, name=f"token-{digest.hex()[:8]}")
    return found


FIELDS = (
    "after a token there may only be name=NAME, weight=NUMBER, images_per_second=NUMBER, burst=NUMBER and "
    "images_per_day=NUMBER"
)


def _field(text: str) -> tuple[str, str | float]:
    key, given, value = text.partition("=")
    return key, value if given and key == "name" else json.loads(value)


def _digest(token: str) -> bytes:
    """Of equal length for all tokens, as a comparison in constant time needs."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
