"""How the bare servers of benchmarks/serving.py divide a request among students, and put the answer together."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msd_ray.ensemble import SampleId
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.service.service import StudentImage


async def divided(
    request: Any, owners: Sequence[int], make: Callable[[int, list[SampleId]], Awaitable[Sequence[StudentImage]]]
) -> Any:
    """request: a GenerateRequest of class numbers and seeds. owners: the part of each class. make: what the students of
    a part make of pairs. Gives a GenerateResponse."""
    pairs = [(c.class_id, seed) for c, seed in zip(request.conditions, request.seeds, strict=True)]
    places: dict[int, list[int]] = defaultdict(list)
    for place, (class_id, _) in enumerate(pairs):
        places[owners[class_id]].append(place)
    made = await asyncio.gather(*(make(part, [pairs[i] for i in mine]) for part, mine in places.items()))
    data = [b""] * len(pairs)
    for mine, images in zip(places.values(), made, strict=True):
        for place, image in zip(mine, images, strict=True):
            data[place] = image.data
    return pb.GenerateResponse(images=[pb.Image(index=i, data=each) for i, each in enumerate(data)])
