"""What a student's evaluations cost as the service makes them: exact, batched, and batched in bf16, beside the sample
alone and a plain batch. CPU time of one thread, or on a GPU seconds; the kinds in turns.

    python benchmarks/serving_batches.py [--recipe digits] [--pixels 32] [--repeats 20] [--together 64] [KEY=VALUE ...]

The last line of standard output is one JSON object. lone: of one image, over its own evaluation. together: of so many
images of random seeds, over a plain batch. gain: images per second of batched evaluations of at most 16, over those of
one by one. All are ratios of medians.
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


def ways(loaded: Callable[[], Part], trial: Any) -> dict[str, tuple[Part, Batching]]:
    """Each way of evaluating, with the students that it is measured with."""
    configs = {"exact": StudentConfig(batching="exact"), "batched": StudentConfig(batching="batched")}
    configs["bf16"] = StudentConfig(precision="bf16")
    parts = {how: loaded() for how in configs}
    return {how: (parts[how], batching_for(parts[how], trial, config)) for how, config in configs.items()}


def measured(loaded: Callable[[], Part], trial: Any, together: int, repeats: int) -> dict[str, Any]:
    rng = random.Random(0)
    many: list[SampleId] = [(trial, rng.getrandbits(63)) for _ in range(together)]
    found, part = ways(loaded, trial), loaded()
    work = {
        "alone": lambda: part.evaluate(many[:1], [0], 1),
        "plain": lambda: part.evaluate(many, range(together), together),
        "lone at its position": lambda: part.generate(many[:1]),
        "at positions": lambda: part.generate(many),
        "one by one": evaluated(part, Batching("batched", (1,)), many[:AT_ONCE]),
    }
    for how, (each, batching) in found.items():
        work[f"lone {how}"] = evaluated(each, batching, many[:1])
        work[f"together {how}"] = evaluated(each, batching, many)
        few = Batching("batched", tuple(size for size in batching.sizes if size <= AT_ONCE))
        work[f"at most {AT_ONCE} {how}"] = evaluated(each, few, many[:AT_ONCE])
    clock = time.perf_counter if part.device.type == "cuda" else time.process_time
    took: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, do in work.items():
            begin = clock()
            do()
            took[name].append(1000 * (clock() - begin))
    median = {name: statistics.median(times[1:]) for name, times in took.items()}
    return {
        "sizes": {how: list(batching.sizes) for how, (_, batching) in found.items()},
        "bound": {how: batching.bound for how, (_, batching) in found.items()},
        "lone": {
            **{how: median[f"lone {how}"] / median["alone"] for how in found},
            "at its position": median["lone at its position"] / median["alone"],
        },
        "together": {
            **{how: median[f"together {how}"] / median["plain"] for how in found},
            "at positions": median["at positions"] / median["plain"],
        },
        "gain": {how: median["one by one"] / median[f"at most {AT_ONCE} {how}"] for how in ("batched", "bf16")},
        "ms": {name: {"median": median[name], **spread(times[1:])} for name, times in took.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits", help="whose networks are evaluated, with random weights")
    parser.add_argument("--pixels", type=int, default=0, help="RGB images of so many, instead of the recipe's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--together", type=int, default=64)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as where:
        known = read_description(Store(untrained(args.recipe, args.overrides, where, args.pixels).students))
        trial = int(known.partition.router.ids_of(0)[0])
        found = measured(lambda: Part.load(known, 0, args.device), trial, args.together, args.repeats)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    facts = {"device": name, "recipe": args.recipe, "overrides": args.overrides, "pixels": args.pixels}
    said = {"parameters": int(known.manifest.body["students"][0]["parameters"]), "promised": known.batching}
    finish("serving_batches", {**facts, **said, "repeats": args.repeats, **found})


if __name__ == "__main__":
    main()
