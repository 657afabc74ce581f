"""Pairs of class and seed, asked for one at a time here and all at once from a service."""

import asyncio
import random

from msd_ray.ensemble import Ensemble
from msd_ray.serving.client import AsyncClient, Connection
from msd_ray.serving.service.request import ImageRequest
from msd_ray.serving.service.routing import PartRequest, part_requests, wanted_of
from msd_ray.serving.service.versions import Traffic

Pair = tuple[int, int]


def routed(image_request: ImageRequest, traffic: Traffic) -> list[PartRequest]:
    """As a gateway sends a request to students."""
    wanted = wanted_of(image_request, traffic)
    return part_requests(wanted, {one.key: one.version.prepared(one.condition) for one in wanted})


def pairs_of(n: int) -> list[Pair]:
    rng = random.Random(0)
    return [(rng.randrange(10), rng.choice([rng.randrange(100), rng.getrandbits(63)])) for _ in range(n)]


def one_at_a_time(uri: str, pairs: list[Pair]) -> list[bytes]:
    ensemble = Ensemble.load(uri)
    return [ensemble.generate([c], [s])[0].numpy().tobytes() for c, s in pairs]


async def all_at_once(where: str | Connection, pairs: list[Pair]) -> list[bytes]:
    """Asked for in requests and streams of different sizes, sixteen at a time."""
    rng, room = random.Random(1), asyncio.Semaphore(16)
    found: dict[Pair, bytes] = {}

    async def ask(client: AsyncClient, some: list[Pair]) -> None:
        classes, seeds = [c for c, _ in some], [s for _, s in some]
        async with room:
            if rng.random() < 0.5:
                made = await client.generate(classes, seeds, "float32")
            else:
                made = [image async for image in client.stream(classes, seeds, "float32")]
        found.update({(image.class_id, image.seed): image.array().tobytes() for image in made})

    async with AsyncClient(where) as client:
        left, requests = list(pairs), []
        while left:
            n = rng.choice([1, 1, 1, 2, 7, 20])
            requests.append(left[:n])
            left = left[n:]
        await asyncio.gather(*(ask(client, some) for some in requests))
    return [found[pair] for pair in pairs]
