"""The actor that a sweep's trials ask whether the sweep is being stopped."""

from typing import Any

import ray
from ray.exceptions import RayError

from msd_ray.stopping import STOP


class StopActor:
    """Holds the stop flag. The sweep's driver sets it again and again, since a restarted actor has lost it."""

    def __init__(self) -> None:
        self._up = False

    def put_up(self) -> None:
        self._up = True

    def is_up(self) -> bool:
        return self._up


def make_stop_actor() -> Any:
    """An actor."""
    return ray.remote(num_cpus=0, max_restarts=-1)(StopActor).remote()


def put_up_if_asked(sign: Any) -> None:
    """Sets the stop flag if this process was told to stop. The sweep's driver calls it now and then."""
    if STOP.asked:
        sign.put_up.remote()


class StopAsked:
    """Whether the stop flag is set. It has one question open at a time, and never waits for the answer."""

    def __init__(self, sign: Any) -> None:
        self._sign, self._question, self._is_up = sign, None, False

    def __call__(self) -> bool:
        if not self._is_up:
            self._question = self._question or self._sign.is_up.remote()
            if ray.wait([self._question], timeout=0)[0]:
                self._is_up, self._question = _answer(self._question), None
        return self._is_up


def _answer(question: Any) -> bool:
    """The actor's answer; False if it cannot answer now."""
    try:
        return bool(ray.get(question))
    except RayError:
        return False
