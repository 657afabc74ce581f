"""How a run stands, as its driver last wrote it down: what `msd-ray status` shows, wherever the storage is seen."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from msd_ray.errors import CorruptError, UserError
from msd_ray.storage import Store

FILE = "status.json"
FRESH = 30.0
"""Seconds after which a driver that wrote nothing is taken for gone; it writes every few seconds."""


@dataclass(frozen=True)
class StudentStanding:
    """One student. images_per_second: of its last segment. waited: the share of that segment in which it waited for
    the teacher. restarts: by this driver. seconds: it held a slot so far, by all drivers."""

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

    @property
    def left(self) -> float:
        """Seconds of training that it still needs at its last speed; NaN before its first segment."""
        if self.nimg >= self.images:
            return 0.0
        return (self.images - self.nimg) / self.images_per_second if self.images_per_second else float("nan")


@dataclass(frozen=True)
class Standing:
    """A run. time: when this was written, in seconds since 1970. driver: HOST:PID. slots: those up now.
    slot_seconds: of all slots so far, whether they trained or not, by all drivers. price: per slot and hour, 0 if
    unknown. pool: figures of the teacher pool."""

    time: float
    driver: str
    finished: bool
    slots: int
    slot_seconds: float
    price: float
    students: list[StudentStanding]
    pool: dict[str, float] = field(default_factory=dict)

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
        """Whether its driver seems to be gone."""
        return not self.finished and self.heard() > FRESH

    def to_json(self) -> dict[str, Any]:
        """What is in the file, and what follows from it; a number that is not known is None."""
        left = self.seconds_left
        figures = {"images_per_second": self.images_per_second, "cost": self.cost, "stale": self.stale}
        return {**asdict(self), **figures, "seconds_left": None if left != left else left}


def write_standing(store: Store, standing: Standing) -> None:
    store.write(FILE, json.dumps(asdict(standing)).encode())


def read_standing(store: Store) -> Standing:
    """Raises UserError where no driver ever wrote one, CorruptError where it cannot be read."""
    try:
        raw: dict[str, Any] = json.loads(store.read(FILE))
        return Standing(**{**raw, "students": [StudentStanding(**s) for s in raw["students"]]})
    except FileNotFoundError:
        raise UserError(f"{store.uri} holds no run that has begun to train: it has no {FILE}") from None
    except (ValueError, TypeError, KeyError):
        raise CorruptError(f"{store.uri}/{FILE} is damaged; the run's driver writes it anew") from None
