"""Why a request is refused, independent of gRPC and HTTP."""

from typing import Literal

RefusalKind = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "INTERNAL",
]


class Refusal(Exception):  # noqa: N818 - an answer rather than an error of ours
    """kind: the name of a gRPC status code. message: one line that the caller can act on. field: of the request, where
    one is wrong, such as conditions[3]. retry_seconds: when another try may help; None: it cannot."""

    def __init__(self, kind: RefusalKind, message: str, field: str = "", retry_seconds: float | None = None) -> None:
        super().__init__(kind, message, field, retry_seconds)  # which is what pickle restores it from
        self.kind, self.message, self.field, self.retry_seconds = kind, message, field, retry_seconds

    def __str__(self) -> str:
        return self.message


def wrong(field: str, message: str) -> Refusal:
    """The refusal of a request whose `field` is wrong."""
    return Refusal("INVALID_ARGUMENT", f"{field}: {message}" if field else message, field)


def busy(what: str, seconds: float) -> Refusal:
    """The refusal of too many requests at once; a retry may help after so many seconds."""
    return Refusal("RESOURCE_EXHAUSTED", f"{what}; try again in {seconds:.2g} s", retry_seconds=seconds)


def away(what: str, seconds: float = 0.5) -> Refusal:
    """The refusal if a process did not answer; another one, or the same after its restart, may."""
    return Refusal("UNAVAILABLE", f"{what}; try again", retry_seconds=seconds)
