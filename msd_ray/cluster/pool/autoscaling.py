"""Decides, from numbers alone, how many replicas of the teacher there should be."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from msd_ray.recipes import PoolConfig

_SPARE = 0.7  # one replica fewer must leave the others at most this busy


@dataclass(frozen=True)
class QueueReading:
    """The pool at one moment. seconds: of any clock. replicas: those there should be; used: those of them that are up
    and have computed something. delay_ms: the median queue delay. busy: the work there is, in replicas that it keeps
    busy all the time."""

    seconds: float
    replicas: int
    used: int
    delay_ms: float
    busy: float


def replicas_wanted(readings: Sequence[QueueReading], config: PoolConfig) -> int:
    """The number of replicas: one more than at the last reading, one fewer, or as many. readings: the oldest first,
    at least one.

    The number changes only if it has been the same for `scale_seconds` and all readings in this time agree: either
    requests wait although no replica is still starting, loading or unknown to the students; or hardly any request
    waits, and one replica fewer would be enough.
    """
    now, recent = readings[-1], _recent(readings, config.scale_seconds)
    if not recent:
        return now.replicas
    if now.replicas < config.max_replicas and all(_slow(reading, config) for reading in recent):
        return now.replicas + 1
    if now.replicas > config.min_replicas and all(_idle(reading, config) for reading in recent):
        return now.replicas - 1
    return now.replicas


def _recent(readings: Sequence[QueueReading], seconds: float) -> list[QueueReading]:
    """The readings of the last `seconds`; none if the number of replicas changed since."""
    now = readings[-1]
    same = list(takewhile(lambda reading: reading.replicas == now.replicas, reversed(readings)))
    begin = now.seconds - seconds
    return [reading for reading in same if reading.seconds >= begin] if same[-1].seconds <= begin else []


def _slow(reading: QueueReading, config: PoolConfig) -> bool:
    return reading.used == reading.replicas and reading.delay_ms > config.scale_up_ms


def _idle(reading: QueueReading, config: PoolConfig) -> bool:
    return reading.delay_ms <= config.scale_down_ms and reading.busy <= _SPARE * (reading.replicas - 1)
