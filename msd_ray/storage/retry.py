"""Retries storage operations whose failure may pass by itself, and reports all other failures at once."""

import errno
import logging
import re
from collections.abc import Callable
from textwrap import shorten
from typing import TypeVar

import pyarrow as pa
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from msd_ray.errors import UserError

LOG = logging.getLogger(__name__)
TRIES = 4  # with waits of about 0.5, 1 and 2 s: enough for a short failure, and a storage that is gone is reported soon
LONGEST = 300  # characters of a library's message, some of which fill pages
FIRST_WAIT, JITTER = 0.5, 0.25  # seconds; jitter, lest students that failed together try again together

_BUSY = {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
_CUT_OFF = {errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT}
_UNREACHED = {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
_PASSING = _BUSY | _CUT_OFF | _UNREACHED

# Object stores give no errno. These errors do not pass; any other may be a short failure of a server or the network.
_REFUSED = re.compile(
    r"ACCESS_DENIED|PERMISSION_DENIED|INVALID_ACCESS_KEY|SIGNATURE|UNAUTHENTICATED|HTTP status 40[13]"
)
_NO_CREDENTIALS = re.compile(r"OAuth2 access token|DefaultAzureCredential")
_INTERNALS = re.compile(r" error_info=\{| dlopen\(")  # what follows is of no use to a user
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|[Bb]ucket .*not found|bucket does not exist")

_AGAIN = "run the same command again once the storage works: complete files are not lost"
_ROOM = "free some space and run the same command again: complete files are not lost"
_RIGHT = "choose another place, or give this user the right to change this one"
_FILE_IN_THE_WAY = "there is a file where a directory is needed: move it away, or choose another place"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: _RIGHT,
    errno.EACCES: _RIGHT,
    errno.EPERM: _RIGHT,
    errno.ENOTDIR: _FILE_IN_THE_WAY,
    errno.EEXIST: _FILE_IN_THE_WAY,
}
_Result = TypeVar("_Result")


class StorageError(OSError):
    """A store refused, or could not be reached: why. advice: what to do. passes: whether waiting may help."""

    def __init__(self, why: str, advice: str = "", *, passes: bool = True) -> None:
        super().__init__(why)
        self.advice, self.passes = advice, passes


def patiently(action: str, path: str, do: Callable[[], _Result]) -> _Result:
    """Calls `do` up to TRIES times while it fails for a reason that may pass; gives its result. It must be safe to
    repeat `do`.

    Raises UserError, "cannot <action> <path>: why; what to do", if it keeps failing or waiting cannot help.
    """
    try:
        return _again(action, path)(do)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot {action} {path}: {why(error)}; {_advice(error)}") from error


def why(error: BaseException) -> str:
    """Why it failed, without the number and the path that are in an OSError's text."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shorten(_INTERNALS.split(told)[0].strip().rstrip("."), LONGEST, placeholder=" ...")


def _again(action: str, path: str) -> Retrying:
    def warn(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        LOG.warning("cannot %s %s: %s; trying again", action, path, error and why(error))

    return Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential_jitter(FIRST_WAIT, jitter=JITTER),
        before_sleep=warn,
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, StorageError):
        return error.passes
    if not isinstance(error, OSError):
        return False
    if error.errno is not None:
        return error.errno in _PASSING
    return not any(lasting.search(str(error)) for lasting in (_REFUSED, _NO_BUCKET, _NO_CREDENTIALS))


def _advice(error: OSError | pa.ArrowException) -> str:
    told = error.advice if isinstance(error, StorageError) else ""
    if _may_pass(error):
        return f"tried {TRIES} times; {told or _AGAIN}"
    if told:
        return told
    if _REFUSED.search(str(error)):
        return _RIGHT
    if _NO_CREDENTIALS.search(str(error)):
        return "give this process credentials for that store"
    if _NO_BUCKET.search(str(error)):
        return "create the bucket, or choose another place"
    return _ADVICE.get(getattr(error, "errno", None) or 0, "repair it, or choose another place")
