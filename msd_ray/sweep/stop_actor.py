"""How the trials of a sweep learn that it is to end now: an actor that their processes ask."""

from typing import Any

import ray
from ray.exceptions import RayError

from msd_ray.stopping import STOP


class StopActor:
    """Put up by the sweep's driver, again and again, since an actor that was restarted has forgotten it."""

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
    """For the sweep's driver to do now and then."""
    if STOP.asked:
        sign.put_up.remote()


class StopAsked:
    """Whether a sign is up. It asks one question at a time, and waits for no answer."""

    def __init__(self, sign: Any) -> None:
        self._sign, self._question, self._is_up = sign, None, False

    def __call__(self) -> bool:
        if not self._is_up:
            self._question = self._question or self._sign.is_up.remote()
            if ray.wait([self._question], timeout=0)[0]:
                self._is_up, self._question = _answer(self._question), None
        return self._is_up


def _answer(question: Any) -> bool:
    """No, where the sign cannot be asked just now."""
    try:
        return bool(ray.get(question))
    except RayError:
        return False
