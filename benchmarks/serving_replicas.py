"""What callers notice when one of two replicas is killed or stopped, or a student's file is damaged.

Requests come at random times (a Poisson process), tried again as by our client. After a third of the time

- killed: a replica of a student gets kill -9. Aims: nobody fails; of the requests that are due a second later or more
  none is tried more than twice.
- stopped: one gets SIGSTOP. Aim: Serve has another process in its place within 15 s; nobody fails.
- damaged: a bit of a student's file is changed and its replicas are killed, while requests are for the others' classes.
  Aims: health names this student alone, nobody fails; with the file as it was, all are ready again.

    python benchmarks/serving_replicas.py [--seconds 45] [--rate 50] [--only killed] [--quick]
"""

import argparse
import asyncio
import json
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from common import finish, say
from served import HTTP_PORT, STUDENT, WHERE, Served, random_ensemble, replicas_of_each, served

from msd_ray.serving.client import Client, Connection
from msd_ray.serving.load.figures import figures_of
from msd_ray.serving.load.stages import Record, Stage, run_stage
from msd_ray.serving.load.target import Mix, Target

TRIES, PATIENCE = 1000, 120.0
"""Of a request, within its 60 seconds; and seconds for what has to happen at all."""
Figures = dict[str, Any]


async def under_load(stage: Stage, classes: tuple[int, ...], blow: Callable[[], Figures]) -> Figures:
    """What callers of these classes noticed, and what the blow says that it saw."""
    target = Target(Connection(WHERE), 60.0, TRIES)
    try:
        mix, record = await target.ready(Mix(classes)), Record(stage)
        asking = asyncio.create_task(run_stage(lambda i: target.ask(mix.request(0, i)), record))
        await asyncio.sleep(stage.seconds / 3)
        at = record.seconds
        said = await asyncio.to_thread(blow)
        await asking
    finally:
        await target.close()
    return {**said, **noticed(record, at)}


def noticed(record: Record, at: float) -> Figures:
    """at: when the blow fell, in seconds of the record."""
    figures, later = figures_of(record), [a.outcome.retries for a in record.answers if a.due >= at + 1.0]
    return {
        "requests": figures.requests,
        "failed": figures.errors,
        "retries": figures.retries,
        "most_retries_from_1_s": max(later, default=0),
        "p50_ms": round(figures.p50_ms or 0.0, 1),
        "p99_ms": round(figures.p99_ms or 0.0, 1),
        "slowest_s": round(max(a.done - a.due for a in record.answers), 2),
        "late_p99_ms": round(figures.late_p99_ms or 0.0, 1),
    }


def killed(service: Served, title: str) -> Figures:
    return {"new_process_s": service.kill(title)}


def stopped(service: Served, title: str) -> Figures:
    before, begin = service.replicas(title), time.monotonic()
    before[0].suspend()
    known = {process.pid for process in before}
    new = until(lambda: {process.pid for process in service.replicas(title)} - known, begin)
    ended = until(lambda: before[0].pid not in {process.pid for process in service.replicas(title)}, begin)
    return {"new_process_s": new, "within_15_s": new <= 15.0, "old_process_ended_s": ended}


def damaged(replicas: list[psutil.Process], file: Path, student: int) -> Figures:
    content, begin = file.read_bytes(), time.monotonic()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for process in replicas:
        process.kill()
    named = until(lambda: not_ready() == [student], begin)
    file.write_bytes(content)
    begin = time.monotonic()
    return {"named_s": named, "ready_again_s": until(lambda: not not_ready(), begin)}


def not_ready() -> list[int]:
    """The students that /healthz names."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/healthz", timeout=10):
            return []
    except urllib.error.HTTPError as error:
        return [student["student"] for student in json.load(error).get("not_ready", [])]


def until(holds: Callable[[], object], begin: float) -> float:
    """Seconds from `begin` until it holds. Raises TimeoutError."""
    while not holds():
        if time.monotonic() - begin > PATIENCE:
            raise TimeoutError("the service did not become what it should")
        time.sleep(0.05)
    return round(time.monotonic() - begin, 2)


def measured(service: Served, uri: str, stage: Stage, only: str | None) -> Figures:
    with Client(WHERE) as client:
        first, second = client.students().students
    title, everyone = f"{STUDENT}{second.student_version}", (*first.classes, *second.classes)
    file = Path(uri) / f"student-{second.index:04d}.safetensors"
    kinds: dict[str, tuple[tuple[int, ...], Callable[[], Figures]]] = {
        "killed": (everyone, lambda: killed(service, title)),
        "stopped": (everyone, lambda: stopped(service, title)),
        "damaged": (tuple(first.classes), lambda: damaged(service.replicas(title), file, second.index)),
    }
    found = {}
    for kind, (classes, blow) in kinds.items():
        if only in (None, kind):
            found[kind] = asyncio.run(under_load(stage, classes, blow))
            say(f"{kind}: {found[kind]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45.0, help="of load, for each of the three")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--only", choices=("killed", "stopped", "damaged"))
    parser.add_argument("--quick", action="store_true", help="12 seconds each")
    args = parser.parse_args()
    stage = Stage(rate=args.rate, seconds=12.0 if args.quick else args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        uri = random_ensemble(Path(folder), 1)
        with served(uri, *replicas_of_each(2)) as service:
            found = measured(service, uri, stage, args.only)
            found["exit_code"] = service.stop()
    finish("serving_replicas", {"seconds": stage.seconds, "rate": args.rate, "replicas": 2, **found})


if __name__ == "__main__":
    main()
