"""The generator of the service behind BentoML, with BentoML's own batching, for benchmarks/serving.py.

It makes the same images: evaluations of a fixed size, filled in order of arrival. Each part of the classes has a
computing thread of its own, as it has a replica in the service. MSD_RAY_BENCHMARK_ENSEMBLE names the ensemble.
"""

import base64
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import bentoml
import torch

from msd_ray.ensemble import Part, SampleId, read_description
from msd_ray.ensemble.positions import MOST
from msd_ray.serving.service.student_worker import encoded
from msd_ray.storage import Store

VARIABLE = "MSD_RAY_BENCHMARK_ENSEMBLE"


@bentoml.service(workers=1, traffic={"timeout": 600})
class Generator:
    def __init__(self) -> None:
        known = read_description(Store(os.environ[VARIABLE]))
        self._owners = known.partition.router.owners
        self._parts = [Part.load(known, i) for i in range(known.partition.parts)]
        torch.set_num_threads(1)
        self._threads = ThreadPoolExecutor(len(self._parts), "student", torch.set_num_threads, (1,))

    @bentoml.api(batchable=True, max_batch_size=1024, max_latency_ms=600_000)
    def generate(self, pairs: list[list[int]]) -> list[str]:
        """A PNG in base64 for each pair of class and seed."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, (class_id, _) in enumerate(pairs):
            places[self._owners[class_id]].append(place)
        mine = [[(pairs[i][0], pairs[i][1]) for i in some] for some in places.values()]
        made = self._threads.map(_made, [self._parts[part] for part in places], mine)
        images = [""] * len(pairs)
        for some, answers in zip(places.values(), made, strict=True):
            for place, image in zip(some, answers, strict=True):
                images[place] = image
        return images


def _made(part: Part, pairs: list[SampleId]) -> list[str]:
    images: list[str] = []
    size = part.batch_size if part.batching == "exact" else MOST
    for begin in range(0, len(pairs), size):
        some = pairs[begin : begin + size]
        x = part.evaluate(some, range(len(some)), size if part.batching == "exact" else len(some))
        images += [base64.b64encode(encoded(each, "png")).decode() for each in x]
    return images
