"""What a student's evaluations cost as the service makes them: exact and batched, beside the sample alone and a plain
batch. CPU time of one thread, the kinds in turns.

    python benchmarks/serving_batches.py [--recipe digits] [--repeats 20] [--together 64] [KEY=VALUE ...]

The last line of standard output is one JSON object. lone: of one image, over its own evaluation. together: of so many
images of random seeds, over a plain batch. gain: images per second of the largest batched evaluation of at most 16,
over those of one by one. All three are ratios of medians.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from common import finish, spread
from serving_ensembles import untrained

from msd_ray.ensemble import Part, SampleId, read_description
from msd_ray.serving.service.batching import Batching, batching_for
from msd_ray.serving.service.config import StudentConfig
from msd_ray.storage import Store

AT_ONCE = 16


def evaluated(part: Part, batching: Batching, sample_ids: list[SampleId]) -> Callable[[], None]:
    """As the service fills evaluations with images that wait together."""

    def work() -> None:
        for begin in range(0, len(sample_ids), batching.most):
            some = sample_ids[begin : begin + batching.most]
            part.evaluate(some, range(len(some)), batching.size_for(len(some)))

    return work


def measured(part: Part, trial: Any, together: int, repeats: int) -> dict[str, Any]:
    rng = random.Random(0)
    many: list[SampleId] = [(trial, rng.getrandbits(63)) for _ in range(together)]
    ways = {how: batching_for(part, trial, StudentConfig(batching=how)) for how in ("exact", "batched")}
    at_most = Batching("batched", tuple(range(1, min(AT_ONCE, ways["batched"].most) + 1)))
    one_by_one = Batching("batched", (1,))
    work = {
        "alone": lambda: part.evaluate(many[:1], [0], 1),
        "plain": lambda: part.evaluate(many, range(together), together),
        "at positions": lambda: part.generate(many),
        "lone at its position": lambda: part.generate(many[:1]),
        **{f"lone {how}": evaluated(part, way, many[:1]) for how, way in ways.items()},
        **{f"together {how}": evaluated(part, way, many) for how, way in ways.items()},
        "one by one": evaluated(part, one_by_one, many[:AT_ONCE]),
        "at most 16": evaluated(part, at_most, many[:AT_ONCE]),
    }
    took: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, each in work.items():
            begin = time.process_time()
            each()
            took[name].append(1000 * (time.process_time() - begin))
    median = {name: statistics.median(times[1:]) for name, times in took.items()}
    return {
        "sizes": {how: list(way.sizes) for how, way in ways.items()},
        "bound": ways["batched"].bound,
        "lone": {how: median[f"lone {how}"] / median["alone"] for how in ways}
        | {"at its position": median["lone at its position"] / median["alone"]},
        "together": {how: median[f"together {how}"] / median["plain"] for how in ways}
        | {"at positions": median["at positions"] / median["plain"]},
        "gain": median["one by one"] / median["at most 16"],
        "median_ms": median,
        "ms": {name: spread(times[1:]) for name, times in took.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="whose networks are evaluated, with random weights")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--together", type=int, default=64)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as where:
        known = read_description(Store(untrained(args.recipe, args.overrides, where).students))
        part = Part.load(known, 0)
        trial = int(known.partition.router.ids_of(0)[0])
        found = measured(part, trial, args.together, args.repeats)
    facts = {"recipe": args.recipe, "overrides": args.overrides, "parameters": part.parameters}
    finish("serving_batches", {**facts, "promised": part.batching, "repeats": args.repeats, **found})


if __name__ == "__main__":
    main()
