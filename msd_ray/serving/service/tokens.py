"""Bearer tokens of the callers. They come from a file, which may change at any time, or from the environment."""

import hashlib
import hmac
import logging
import os
import time
from pathlib import Path

from msd_ray.serving.protocol.refusal import Refusal

VARIABLE = "MSD_RAY_TOKENS"
LOOK_AGAIN = 1.0  # seconds between looks at the file
LOG = logging.getLogger(__name__)


class Tokens:
    """Without a file and without the environment variable all callers are accepted; with an empty file none is."""

    def __init__(self, path: str = "") -> None:
        """path: of a file with one token per line, without empty lines and those with #; empty for none. Without a file
        the environment variable MSD_RAY_TOKENS is used, whose tokens are separated by commas."""
        self._path, self._looked = Path(path) if path else None, -LOOK_AGAIN
        self._digests = [] if path else _digests(os.environ.get(VARIABLE, "").split(","))
        self.needed = bool(self._path or self._digests)

    def check(self, authorization: str) -> None:
        """Takes the value of an Authorization header. Raises Refusal unless it is `Bearer` and a token that is valid
        now. The time that takes does not tell how much of a token was right."""
        if not self.needed:
            return
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal("UNAUTHENTICATED", "a token is needed: send the header `authorization: Bearer <token>`")
        digest, matches = _digest(token.strip()), 0
        for known in self._current():
            matches += hmac.compare_digest(digest, known)
        if not matches:
            raise Refusal("UNAUTHENTICATED", "this token is not valid")

    def _current(self) -> list[bytes]:
        if self._path and time.monotonic() - self._looked >= LOOK_AGAIN:
            self._looked = time.monotonic()
            try:
                self._digests = _digests(self._path.read_text().splitlines())
            except (OSError, ValueError) as error:  # a half-written file must neither refuse all callers nor accept all
                LOG.error("cannot read the tokens: %s; those read before stay valid", error)
        return self._digests


def _digests(tokens: list[str]) -> list[bytes]:
    stripped = (token.strip() for token in tokens)
    return [_digest(token) for token in stripped if token and not token.startswith("#")]


def _digest(token: str) -> bytes:
    """Of equal length for all tokens, as a comparison in constant time needs."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
