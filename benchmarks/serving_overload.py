"""The service under loads below and above what it can do, and how soon it is itself again.

First its capacity: the requests per second that it answers to many callers who ask again and again. Then an open loop
(Poisson arrivals) at shares of it. As soon as the last and largest load ends, a light load shows how the service
answers while it still works on what is left. recovered_s: from then to the first of three seconds in a row whose p95 is
that of a fresh service, which is at most the p95 of the worst second of the same light load before.

    python benchmarks/serving_overload.py [--ensemble E] [--seconds 60] [--images 1] [--callers 256] [--quick]
                                          [KEY=VALUE ...]

KEY=VALUE: of the service's configuration, such as limits.concurrent=32. The capacity is larger the more ask at once,
since evaluations are fuller then; but --callers must be fewer than the service lets in and wait. Requests are tried
once, as by `msd-ray bench`, whose code this is. Without an ensemble it serves two students of tiny pictures with random
weights.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, say
from served import WHERE, random_ensemble, served

from msd_ray.serving.client import Connection
from msd_ray.serving.load.figures import figures_of
from msd_ray.serving.load.stages import Record, Stage, run_stage
from msd_ray.serving.load.target import Mix, Target

SHARES = (0.5, 0.8, 0.95, 1.2)
LIGHT, IN_A_ROW, CONNECTIONS = 0.2, 3, 16
"""The light load's share of the capacity; seconds that make a recovery; connections of the callers, who are many."""
SHOWN = (
    "load",
    "requests",
    "answered",
    "images_per_second",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "late_p99_ms",
    "shed_share",
    "errors",
)
Figures = dict[str, Any]


class Loads:
    """Stages of load on one service."""

    def __init__(self, target: Target, mix: Mix) -> None:
        self._target, self._mix, self._stages = target, mix, 0

    async def run(self, stage: Stage) -> Record:
        record, number = Record(stage), self._stages
        self._stages += 1
        await run_stage(lambda i: self._target.ask(self._mix.request(number, i)), record, number)
        return record


def shown(record: Record) -> Figures:
    figures = figures_of(record).to_json()
    return {name: round(of, 3) if isinstance(of := figures[name], float) else of for name in SHOWN}


def p95s(record: Record) -> list[float]:
    """Milliseconds that requests of each second took; infinite where more than one in twenty got no image."""
    seconds: list[list[float]] = [[] for _ in range(int(record.stage.seconds))]
    for answer in record.answers:
        took = answer.done - answer.due if answer.outcome.code == "OK" else float("inf")
        seconds[min(int(answer.due), len(seconds) - 1)].append(1000 * took)
    return [float(np.percentile(each, 95, method="higher")) for each in seconds if each]


def recovered_s(after: Record, fresh: Record) -> int | None:
    """None where it never did in this record."""
    like_fresh = [p95 <= max(p95s(fresh)) for p95 in p95s(after)]
    rows = range(len(like_fresh) - IN_A_ROW + 1)
    return next((since for since in rows if all(like_fresh[since : since + IN_A_ROW])), None)


async def measured(images: int, callers: int, seconds: float) -> Figures:
    target = Target(Connection(WHERE, connections=CONNECTIONS), 60.0, tries=1)
    try:
        loads = Loads(target, await target.ready(Mix((), images)))
        return await _measured(loads, images, callers, seconds)
    finally:
        await target.close()


async def _measured(loads: Loads, images: int, callers: int, seconds: float) -> Figures:
    short = min(20.0, seconds)
    await loads.run(Stage(callers=callers, seconds=min(5.0, seconds)))
    most = shown(await loads.run(Stage(callers=callers, seconds=short)))
    capacity = most["images_per_second"] / images
    light = Stage(rate=LIGHT * capacity, seconds=short)
    fresh, steps = await loads.run(light), dict[str, Figures]()
    for share in SHARES:
        under_way = asyncio.create_task(loads.run(Stage(rate=share * capacity, seconds=seconds)))
        if share == SHARES[-1]:
            await asyncio.sleep(seconds)
            after = await loads.run(light)
        steps[f"{share:.0%}"] = shown(await under_way)
        say(f"{share:.0%} of {capacity:.1f} requests/s: {steps[f'{share:.0%}']}")
    return {
        "capacity": most,
        "fresh": shown(fresh),
        **steps,
        "after": shown(after),
        "recovered_s": recovered_s(after, fresh),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--ensemble")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--images", type=int, default=1, help="of a request")
    parser.add_argument("--callers", type=int, default=256, help="who ask for the capacity at once")
    parser.add_argument("--quick", action="store_true", help="5 seconds each")
    args = parser.parse_args()
    seconds = 5.0 if args.quick else args.seconds
    with tempfile.TemporaryDirectory() as folder:
        uri = args.ensemble or random_ensemble(Path(folder), 1)
        with served(uri, *args.overrides) as service:
            found = asyncio.run(measured(args.images, args.callers, seconds))
            found["exit_code"] = service.stop()
    finish(
        "serving_overload",
        {"seconds": seconds, "images": args.images, "callers": args.callers, "overrides": args.overrides, **found},
    )


if __name__ == "__main__":
    main()
