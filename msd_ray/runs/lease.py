"""A run directory is driven by one process at a time: the one whose lease lies in it and has not expired."""

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from pydantic import BaseModel, FiniteFloat, ValidationError

from msd_ray.errors import Stopped, TrainingError, UserError
from msd_ray.runs.process import Process
from msd_ray.stopping import STOP
from msd_ray.storage import Change, Store

LOG = logging.getLogger(__name__)
NAME = "lease.json"
DURATION = 45.0  # seconds: two renewals may fail, and a driver need not wait long for the lease of a lost host
RENEWAL = DURATION / 3
SKEW = 10.0  # seconds by which two hosts' clocks may differ: a lease is another's only so long after it expired
SETTLING = 2.0  # seconds in which any process that read the old lease has written its own, without conditional writes


class HeldByAnotherError(UserError):
    """Another living process holds the lease."""


class LeaseRecord(BaseModel, frozen=True):
    """The content of the file. expires: unix seconds by the owner's clock."""

    id: str
    owner: Process
    expires: FiniteFloat

    def __str__(self) -> str:
        return f"{self.owner.host}, process {self.owner.pid}"


@contextmanager
def held(store: Store, clock: Callable[[], float] = time.time) -> Iterator["Lease"]:
    """Holds the lease of the run directory `store`, renewed by a thread of its own.

    Raises UserError if another process holds it, or the directory cannot be written to. It takes over a lease that has
    expired, or whose process has certainly ended.
    """
    lease, ended = Lease(store, clock), threading.Event()
    lease.take()
    thread = threading.Thread(target=_keep, args=(lease, ended), name="lease", daemon=True)
    thread.start()
    try:
        with STOP.before_the_end(lease.release):
            yield lease
    finally:
        ended.set()
        thread.join()
        lease.release()


@contextmanager
def held_in_turn(store: Store, stopping: Callable[[], bool], wait: float = 1.0) -> Iterator["Lease"]:
    """As `held`, but waits while another process holds it, and asks again every `wait` seconds. Raises Stopped if this
    process is told to stop meanwhile."""
    with ExitStack() as stack:
        while True:
            try:
                lease = stack.enter_context(held(store))
                break
            except HeldByAnotherError:
                if stopping():
                    raise Stopped("stopped while another process trained", 1) from None
                time.sleep(wait)
        yield lease


def refuse_if_held(store: Store) -> None:
    """Raises UserError if another process holds the lease of `store`; takes and writes nothing."""
    with suppress(FileNotFoundError):
        Lease(store).refuse_other(store.read(NAME))


def is_held(store: Store, clock: Callable[[], float] = time.time) -> bool | None:
    """Whether a living process holds the lease of `store`; None if there is no lease, or it cannot be read."""
    try:
        record = LeaseRecord.model_validate_json(store.read(NAME))
    except (FileNotFoundError, ValidationError):
        return None
    return record.expires + SKEW > clock() and not record.owner.is_gone()


class Lease:
    """lost: whether another process has taken it over, or it was removed; once lost it stays lost.

    With clocks less than SKEW apart, two processes never both hold it on storage that has locks or conditional writes
    (S3). On other object stores, if two processes take it at the same moment, the last one keeps it, and the other
    notices after SETTLING seconds, at the latest by `check`. With clocks further apart a process may take over a live
    lease; its owner notices by `check`.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._id, self._owner, self._until = uuid.uuid4().hex, Process.this(), 0.0
        self.lost = False

    def take(self) -> None:
        """Takes the lease. Raises UserError if another process holds it, or the directory cannot be written to."""
        if not self._update(self._taken):
            time.sleep(SETTLING)
            self._update(self._taken)  # refused where another wrote later

    def check(self) -> None:
        """Renews it. Raises TrainingError if it was lost, UserError if the storage fails."""
        try:
            self._update(self._renewed)
        except TrainingError:
            self.lost = True
            raise

    def refuse_if_lost(self) -> None:
        """As `check`, but asks the storage only if the thread found it lost or did not renew it in time (this host was
        asleep, the storage failed): cheap enough for every second."""
        if self.lost or self._clock() > self._until:
            self.check()

    def release(self) -> None:
        """Removes the lease if this process still holds it. A failing storage gives only a warning, since the lease
        will expire."""
        try:
            self._store.update(NAME, self._released)
        except UserError as error:
            LOG.warning("%s", error)

    def _update(self, change: Change) -> bool:
        until = self._clock() + DURATION
        exclusive = self._store.update(NAME, change)
        self._until = until
        return exclusive

    def refuse_other(self, old: bytes | None) -> None:
        """Raises UserError if `old` is the lease of another process that may still be alive."""
        found = self._read(old)
        if found and found.id != self._id and not found.owner.is_gone() and self._seconds_left(found) > 0:
            raise self._refusal(found)

    def _taken(self, old: bytes | None) -> bytes:
        self.refuse_other(old)
        return self._claim()

    def _renewed(self, old: bytes | None) -> bytes:
        found = self._read(old)
        if old is None or (found and found.id != self._id):
            taken = f"{found} has taken over" if found else f"somebody removed {NAME} from"
            raise TrainingError(f"{taken} {self._store.uri}: this process ends and leaves the run as it is")
        return self._claim()

    def _released(self, old: bytes | None) -> bytes | None:
        found = self._read(old)
        return None if found and found.id == self._id else old

    def _claim(self) -> bytes:
        record = LeaseRecord(id=self._id, owner=self._owner, expires=self._clock() + DURATION)
        return record.model_dump_json(indent=1).encode()

    def _read(self, data: bytes | None) -> LeaseRecord | None:
        """The lease in the storage; None if there is none or it cannot be read, so that its process is unknown."""
        try:
            return LeaseRecord.model_validate_json(data) if data is not None else None
        except ValidationError:
            LOG.warning("%s/%s is damaged; it counts as expired", self._store.uri, NAME)
            return None

    def _seconds_left(self, record: LeaseRecord) -> int:
        return math.ceil(record.expires + SKEW - self._clock())

    def _refusal(self, other: LeaseRecord) -> UserError:
        return HeldByAnotherError(
            f"{self._store.uri} is being trained by {other} (its lease ends in {self._seconds_left(other)} s unless it "
            f"renews); wait for it, or give another --run-dir"
        )


def _keep(lease: Lease, ended: threading.Event) -> None:
    """Renews the lease until it has ended or is lost. If the storage fails, it tries again at the next renewal."""
    while not (lease.lost or ended.wait(RENEWAL)):
        try:
            lease.check()
        except (TrainingError, UserError) as error:
            LOG.warning("%s", error)
