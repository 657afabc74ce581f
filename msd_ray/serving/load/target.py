"""The service that is asked: over gRPC, by our client's own calls, so that its tries can be counted."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import grpc

from msd_ray.errors import MsdRayError, UserError
from msd_ray.serving.client import Connection, RefusedError, Retry
from msd_ray.serving.client.calls import Calls
from msd_ray.serving.client.messages import request_of
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.load.stages import Outcome

FIRST = 10.0
"""Seconds in which a service must say what it serves."""
WARM = 32
"""Images that a service makes before it is loaded, as far as there are so many conditions."""


@dataclass(frozen=True)
class Mix:
    """What is asked for. conditions: each image's is one of them, any as likely. images: of a request."""

    conditions: tuple[int | str, ...]
    images: int = 1
    format: str = ""
    seed: int = 0

    def request(self, stage: int, number: int) -> pb.GenerateRequest:
        """The request of that number; it follows from the seed, so another run asks for the same images."""
        rng = random.Random(f"request {self.seed} {stage} {number}")
        conditions = rng.choices(self.conditions, k=self.images)
        return request_of(conditions, [rng.getrandbits(63) for _ in conditions], self.format, "")


class Target:
    """seconds: of a request, with all its tries."""

    def __init__(self, where: Connection, seconds: float, tries: int) -> None:
        self._where, self._calls = where.target, Calls(grpc.aio, where, seconds, Retry(tries=tries))

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._calls.channels))

    async def ask(self, request: pb.GenerateRequest) -> Outcome:
        """What became of a request, and of its tries."""
        call, failed = self._calls.begin(None), Counter[str]()
        while True:
            try:
                images = len((await call.attempt("Generate", request)).images)
                return Outcome("OK", images, failed.total(), failed["RESOURCE_EXHAUSTED"])
            except grpc.RpcError as error:
                failed[error.code().name] += 1
                try:
                    await asyncio.sleep(call.pause(error))
                except RefusedError as refused:
                    return Outcome(refused.code, 0, failed.total() - 1, failed["RESOURCE_EXHAUSTED"])

    async def ready(self, mix: Mix) -> Mix:
        """The mix, of all classes if it has no conditions, once the service has made some of its images. Raises
        UserError if the service cannot be reached, or refuses them."""
        served = await self._first("GetEnsemble", pb.GetEnsembleRequest(), FIRST)
        if mix.images > served.limits.images:
            raise UserError(f"the service makes at most {served.limits.images} images for a request, not {mix.images}")
        mix = replace(mix, conditions=checked(mix.conditions, served))
        some = mix.conditions[: min(served.limits.images, WARM)]
        await self._first("Generate", request_of(some, range(len(some)), mix.format, ""), None)
        return mix

    async def _first(self, method: str, request: Any, seconds: float | None) -> Any:
        """Raises UserError for what a user can mend, MsdRayError for other errors."""
        try:
            return await self._calls.begin(seconds).attempt(method, request)
        except grpc.RpcError as error:
            raise _told(self._where, error) from None


def checked(conditions: tuple[int | str, ...], served: pb.GetEnsembleResponse) -> tuple[int | str, ...]:
    """The conditions; all classes if there are none. Raises UserError for one that the main version does not have."""
    main = max(served.versions, key=lambda version: version.weight)
    if main.takes_prompts and not all(isinstance(each, str) for each in conditions or (0,)):
        raise UserError("the service takes prompts: give a file with some, one a line, with --prompts FILE")
    known = {*range(len(main.labels)), *main.labels}
    wrong = [] if main.takes_prompts else [each for each in conditions if each not in known]
    if wrong:
        raise UserError(f"the service has no class {wrong[0]!r}: it has 0 to {len(main.labels) - 1}, and their labels")
    return conditions or tuple(range(len(main.labels)))


def _told(where: str, error: grpc.RpcError) -> MsdRayError:
    code, said = error.code().name, " ".join(str(error.details()).split())
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return UserError(f"no service answers at {where}: {said}")
    if code in ("UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED"):
        return UserError(f"{where} refuses this: {said}")
    return MsdRayError(f"{where}: {code}: {said}")
