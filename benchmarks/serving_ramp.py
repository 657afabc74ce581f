"""How the number of replicas follows a load that rises and falls, by calls under way and by how long images wait.

Requests come at random times, at one rate after the other. For each rate: what callers noticed, and how many replicas
there were at its begin and its end; and after the last one how many seconds it took until there were as few as at
first. The student has 20 million parameters and random weights: of a small one the gateway, and not the replicas,
would be what has too much to do.

    python benchmarks/serving_ramp.py [--rates 10,40,80,160,10] [--seconds 30] [--most 3] [--queue-delay-ms 100]
                                      [--quick]
"""

import argparse
import asyncio
import tempfile
import time
from typing import Any

from common import finish, say
from served import STUDENT, WHERE, Served, served
from serving_ensembles import untrained
from serving_overload import Loads, shown

from msd_ray.serving.client import Connection
from msd_ray.serving.load.stages import Stage
from msd_ray.serving.load.target import Mix, Target

IDLE, PATIENCE = 10.0, 120.0
"""Seconds after which Serve may remove a replica; and how long that is waited for."""
Figures = dict[str, Any]


async def ramped(service: Served, rates: list[float], seconds: float) -> list[Figures]:
    target = Target(Connection(WHERE), 60.0, tries=1)
    found = list[Figures]()
    try:
        loads = Loads(target, await target.ready(Mix(())))
        for rate in rates:
            before = len(service.replicas(STUDENT))
            record = await loads.run(Stage(rate=rate, seconds=seconds))
            found.append({**shown(record), "replicas": [before, len(service.replicas(STUDENT))]})
            say(f"{found[-1]}")
    finally:
        await target.close()
    return found


def measured(service: Served, rates: list[float], seconds: float) -> Figures:
    least = len(service.replicas(STUDENT))
    stages, begin = asyncio.run(ramped(service, rates, seconds)), time.monotonic()
    while len(service.replicas(STUDENT)) > least and time.monotonic() - begin < PATIENCE:
        time.sleep(0.2)
    return {"least": least, "stages": stages, "least_again_s": round(time.monotonic() - begin, 1)}


def large(folder: str) -> str:
    return untrained("digits", ["network.channels=160", "partition.k=1"], folder).students


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="10,40,80,160,10", help="requests per second, one after the other")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each rate")
    parser.add_argument("--most", type=int, default=3, help="replicas of a student")
    parser.add_argument("--queue-delay-ms", type=float, default=100.0, help="that is aimed at")
    parser.add_argument("--quick", action="store_true", help="two rates of 15 seconds, by the wait alone")
    args = parser.parse_args()
    if args.quick:
        args.rates, args.seconds = "10,160", 15.0
    rates = [float(rate) for rate in args.rates.split(",")]
    students = ["students.placement=dedicated", f"students.max_replicas={args.most}", f"students.idle_seconds={IDLE}"]
    settings = {"calls": [], "wait": [f"students.queue_delay_ms={args.queue_delay_ms}"]}
    found = dict[str, Any]()
    for name, more in settings.items():
        if args.quick and name == "calls":
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            served(large(folder), *students, *more) as service,
        ):
            found[name] = measured(service, rates, args.seconds)
    finish("serving_ramp", {"seconds": args.seconds, "most": args.most, "aim_ms": args.queue_delay_ms, **found})


if __name__ == "__main__":
    main()
