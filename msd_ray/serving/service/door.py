"""Who may ask, how much, and whose turn it is."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.deadline import Deadline
from msd_ray.serving.service.fair_queue import FairQueue
from msd_ray.serving.service.quota import Account, Quota
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.tokens import Caller

_OURS = ("INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""How requests end that the service fails."""


class Door:
    """Of one gateway, which counts by itself. clock: steady seconds; today: seconds since 1970."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float] = time.monotonic, today: Callable[[], float] = time.time
    ) -> None:
        self._limits, self._clock, self._today = limits, clock, today
        self.queue = FairQueue(limits.concurrent, limits.waiting, clock)
        self._accounts: dict[str, Account] = defaultdict(Account)

    @asynccontextmanager
    async def admitted(self, caller: Caller, images: int, deadline: Deadline) -> AsyncIterator[None]:
        """Waits until it is the caller's turn; the request runs in this block. Raises Refusal if the caller asks for
        too much, the queue is full, or the turn does not come in time. Images count once the request runs, unless the
        service fails."""
        account, ran = self._accounts[caller.name], False
        account.take(images, self.quota(caller), self._clock(), self._today())
        try:
            with self.queue.place(caller.name, caller.weight, images) as turn:
                await deadline.meet(turn)
                ran = True
                yield
        except BaseException as error:
            if not ran or (isinstance(error, Refusal) and error.kind in _OURS):
                account.give_back(images)
            raise

    def quota(self, caller: Caller) -> Quota:
        """What a token says itself, and else the limits."""
        own, of_all = caller, self._limits
        per_second = of_all.images_per_second if own.images_per_second is None else own.images_per_second
        burst = of_all.burst if own.burst is None else own.burst
        per_day = of_all.images_per_day if own.images_per_day is None else own.images_per_day
        return Quota(per_second, burst or of_all.images, per_day)
