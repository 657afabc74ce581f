"""How a run stands, as its driver last wrote it down: what `msd-ray status` shows, wherever the storage is seen."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from msd_ray.errors import CorruptError, Stopped, UserError
from msd_ray.runs.lease import is_held
from msd_ray.storage import Store

FILE = "status.json"
FRESH = 30.0
"""Seconds after which a driver that wrote nothing is taken for gone, where there is no lease to tell."""


@dataclass(frozen=True)
class StudentStatus:
    """One student. nimg, images_per_second and loss: of the segment under way, else of its last one. waited: the share
    of that one in which it waited for the teacher. restarts: by this driver. seconds: it held a slot so far, by all
    drivers."""

    name: str
    state: str
    stage: str
    nimg: int
    images: int
    images_per_second: float
    waited: float
    restarts: int
    seconds: float
    quality: str = ""
    error: str = ""
    loss: float | None = None

    @property
    def left(self) -> float:
        """Seconds of training that it still needs at its last speed; NaN before any is known."""
        if self.nimg >= self.images:
            return 0.0
        return (self.images - self.nimg) / self.images_per_second if self.images_per_second else float("nan")


@dataclass(frozen=True)
class RunStatus:
    """A run. time: when this was written, in seconds since 1970. driver: HOST:PID. slots: those up now.
    slot_seconds: of all slots so far, whether they trained or not, by all drivers. price: per slot and hour, 0 if
    unknown. pool: figures of the teacher pool. stopped: its driver was told to end. held: whether its driver holds the
    lease of the run's directory, None where there is none; seen when this was read. shunned: nodes and GPUs that get no
    students for a while, and why."""

    time: float
    driver: str
    finished: bool
    slots: int
    slot_seconds: float
    price: float
    students: list[StudentStatus]
    pool: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    held: bool | None = None
    shunned: dict[str, str] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        return self.slot_seconds / 3600 * self.price

    @property
    def images_per_second(self) -> float:
        """Of all students that train at the moment."""
        return sum(s.images_per_second for s in self.students if s.state == "training")

    @property
    def seconds_left(self) -> float:
        """At least as long as the slowest student takes, and as all take on the slots there are."""
        left = [s.left for s in self.students if s.state != "failed"]
        known = [seconds for seconds in left if seconds == seconds]
        if not left or not known:
            return float("nan")
        total = sum(known) * len(left) / len(known)  # those that did not begin yet are like the others
        return max(max(known), total / max(self.slots, 1))

    def heard(self) -> float:
        """Seconds since this was written."""
        return time.time() - self.time

    @property
    def stale(self) -> bool:
        """Whether its driver is gone, though it neither finished nor was told to end."""
        gone = self.heard() > FRESH if self.held is None else not self.held
        return gone and not (self.finished or self.stopped)

    def to_json(self) -> dict[str, Any]:
        """What is in the file, and what follows from it; a number that is not known is None."""
        left = self.seconds_left
        figures = {"images_per_second": self.images_per_second, "cost": self.cost, "stale": self.stale}
        return {**asdict(self), **figures, "seconds_left": None if left != left else left}


def write_status(store: Store, status: RunStatus) -> None:
    store.write(FILE, json.dumps(asdict(status)).encode())


def mark_stopped(store: Store, stopped: bool = True) -> None:
    """Writes down that the run's driver was told to end, or that another goes on; nothing where none ever began, or a
    damaged file says so: a driver that works writes it anew."""
    with suppress(CorruptError):
        if store.exists(FILE) and (status := read_status(store)).stopped != stopped:
            write_status(store, replace(status, stopped=stopped))


@contextmanager
def marked_where_stopped(store: Store) -> Iterator[None]:
    """Where this block is told to end, the run's status says so."""
    try:
        yield
    except Stopped:
        mark_stopped(store)
        raise


def read_status(store: Store) -> RunStatus:
    """Raises UserError where no driver ever wrote one, CorruptError where it cannot be read."""
    try:
        raw: dict[str, Any] = json.loads(store.read(FILE))
        students = [StudentStatus(**student) for student in raw["students"]]
        return RunStatus(**{**raw, "students": students, "held": is_held(store)})
    except FileNotFoundError:
        raise UserError(f"{store.uri} holds no run that has begun to train: it has no {FILE}") from None
    except (ValueError, TypeError, KeyError):
        raise CorruptError(f"{store.uri}/{FILE} is damaged; the run's driver writes it anew") from None
