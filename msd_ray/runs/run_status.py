"""The status of a run, as its driver last wrote it: `msd-ray status` shows it on any machine that sees the storage."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from msd_ray.errors import CorruptError, Stopped, UserError
from msd_ray.runs.lease import is_held
from msd_ray.storage import Store

FILE = "status.json"
FRESH = 30.0
"""Seconds without a new status after which a driver counts as gone, if there is no lease."""


@dataclass(frozen=True)
class StudentStatus:
    """One student. nimg, images_per_second and loss: of the running segment, else of its last one. waited: the share of
    its last segment in which it waited for the teacher. restarts: by this driver. seconds: for which it held a slot so
    far, under all drivers. trunk: the name of the student that it branches off from, begins: at how many images. flops,
    mfu, memory: of its last segment, as `training.utilisation` has them."""

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
    begins: int = 0
    trunk: str = ""
    flops: float = 0.0
    mfu: float | None = None
    memory: int = 0

    @property
    def own_images(self) -> int:
        """Images that it trains on itself."""
        return self.images - self.begins

    @property
    def own_nimg(self) -> int:
        """Images that it has trained on itself so far."""
        return max(0, self.nimg - self.begins)

    @property
    def left(self) -> float:
        """Seconds of training that it still needs at its last speed; NaN before any is known."""
        return self.left_at(self.images_per_second)

    def left_at(self, images_per_second: float) -> float:
        """Seconds of training that it would still need at this speed; NaN at 0, unless it is done."""
        if self.nimg >= self.images:
            return 0.0
        images = self.own_images - self.own_nimg
        return images / images_per_second if images_per_second else float("nan")


@dataclass(frozen=True)
class RunStatus:
    """A run. time: when this was written, in seconds since 1970. driver: HOST:PID. slots: those up now. slot_seconds:
    of all slots so far, whether they trained or not, under all drivers. price: per slot and hour, 0 if unknown. pool:
    figures of the teacher pool. stopped: whether a signal stopped its driver. held: whether a driver holds the lease of
    the run's directory, None if there is no lease; checked when this was read. shunned: nodes and GPUs that get no
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
        """Images per second of all students that train at the moment."""
        return sum(s.images_per_second for s in self.students if s.state == "training")

    @property
    def seconds_left(self) -> float:
        """Seconds to the end: the time of the slowest student, after the trunks that it waits for, or of all students
        on the present slots, whichever is longer. Students that have not begun are taken to be as fast as the
        others."""
        rates = [s.images_per_second for s in self.students if s.images_per_second]
        if not rates:
            return float("nan")
        going = {s.name: s for s in self.students if s.state != "failed"}
        seconds = {name: s.left_at(s.images_per_second or fmean(rates)) for name, s in going.items()}

        def until_done(name: str) -> float:
            return seconds[name] + until_done(going[name].trunk) if name in going else 0.0

        return max(max(map(until_done, going), default=0.0), sum(seconds.values()) / max(self.slots, 1))

    def heard(self) -> float:
        """Seconds since this was written."""
        return time.time() - self.time

    @property
    def stale(self) -> bool:
        """Whether its driver is gone, though it neither finished nor was stopped."""
        gone = self.heard() > FRESH if self.held is None else not self.held
        return gone and not (self.finished or self.stopped)

    def to_json(self) -> dict[str, Any]:
        """The content of the file, and figures that follow from it; an unknown number is None."""
        left = self.seconds_left
        figures = {"images_per_second": self.images_per_second, "cost": self.cost, "stale": self.stale}
        return {**asdict(self), **figures, "seconds_left": None if left != left else left}


def write_status(store: Store, status: RunStatus) -> None:
    store.write(FILE, json.dumps(asdict(status)).encode())


def mark_stopped(store: Store, stopped: bool = True) -> None:
    """Notes in the status that a signal stopped the run's driver, or that another goes on. Writes nothing if there is
    no status, or the file is damaged: a working driver writes it again."""
    with suppress(CorruptError):
        if store.exists(FILE) and (status := read_status(store)).stopped != stopped:
            write_status(store, replace(status, stopped=stopped))


@contextmanager
def marked_where_stopped(store: Store) -> Iterator[None]:
    """If a signal stops this block, the run's status says so."""
    try:
        yield
    except Stopped:
        mark_stopped(store)
        raise


def read_status(store: Store) -> RunStatus:
    """The status of the run in `store`. Raises UserError if no driver ever wrote one, CorruptError if it cannot be
    read."""
    try:
        raw: dict[str, Any] = json.loads(store.read(FILE))
        students = [StudentStatus(**student) for student in raw["students"]]
        return RunStatus(**{**raw, "students": students, "held": is_held(store)})
    except FileNotFoundError:
        raise UserError(f"{store.uri} holds no run that has begun to train: it has no {FILE}") from None
    except (ValueError, TypeError, KeyError):
        raise CorruptError(f"{store.uri}/{FILE} is damaged; the run's driver writes it anew") from None
