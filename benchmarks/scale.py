"""The driver with many students: its CPU time per segment and its memory, on a cluster that is simulated.

The real Driver, Scheduler and Monitor run against SimulatedSlots: students take turns on fewer slots, nodes vanish and
others join throughout. Only the driver's own time counts, not the simulation's. There are no Ray calls in it: a segment
through Ray costs the driver one remote call, one wait and one get more.

With --storage-ms each request to storage takes so long, and goes to an object store's layout: then it is also measured
how long the driver's loop stood still at the most, and whether status.json, read every second meanwhile, said what was
true at the time that it names.

    python benchmarks/scale.py [--students 10 100 1000] [--seed 0] [--storage-ms 100] [--quick]
"""

import argparse
import bisect
import random
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from functools import wraps
from typing import Any

from common import finish, say
from pyarrow import fs

from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.monitor import Monitor
from msd_ray.cluster.planning.pacing import Pace
from msd_ray.cluster.planning.simulation import Incident, Node, NoTask, SimulatedSlots
from msd_ray.cluster.progress import StudentState
from msd_ray.cluster.slots import NoPool
from msd_ray.cluster.work import ScheduledTask
from msd_ray.runs.journal import STUDENTS, read_journal
from msd_ray.runs.lease import held
from msd_ray.runs.run_status import read_status
from msd_ray.storage import Store

PACE = Pace(image=0.01, segment=1.0, open=3.0, start=5.0)
SEGMENT, SEGMENTS = 1_000, 20
SLOTS_PER_NODE = 2
PAUSE = 0.003


class Deaf:
    def note(self, line: str) -> None:
        pass

    def watch(self, statuses: list[StudentState]) -> None:
        pass


class TimedSlots(SimulatedSlots):
    """spent: CPU seconds inside the simulation."""

    spent = 0.0


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(self: TimedSlots, *args: Any) -> Any:
        start = time.process_time()
        try:
            return method(self, *args)
        finally:
            self.spent += time.process_time() - start

    return run


for _name in ("room", "ask", "give", "hurry", "drop", "wait"):
    setattr(TimedSlots, _name, _timed(getattr(SimulatedSlots, _name)))


def incidents(nodes: int, seconds: float, rng: random.Random) -> list[Incident]:
    """Each node beyond the first is killed once on average, and another takes its place a while later."""
    found = []
    for i in range(1, nodes):
        at = rng.uniform(0, seconds)
        found.append(Incident(at, "kill", Node(f"n{i}", SLOTS_PER_NODE)))
        found.append(Incident(at + rng.uniform(0, 60), "join", Node(f"m{i}", SLOTS_PER_NODE)))
    return found


def measured(students: int, seed: int) -> dict[str, float]:
    nodes, rng = max(1, students // 4), random.Random(seed)
    work = [ScheduledTask(f"student {i}", SEGMENT * SEGMENTS, SEGMENT, NoTask()) for i in range(students)]
    length = 2 * SEGMENTS * SEGMENT * PACE.image
    slots = TimedSlots([Node(f"n{i}", SLOTS_PER_NODE) for i in range(nodes)], PACE, incidents(nodes, length, rng))
    with tempfile.TemporaryDirectory() as folder:
        monitor = Monitor(Store(folder), 0.0, Deaf(), [])
        driver = Driver(work, slots, Terms(), monitor, NoPool())
        start = time.process_time()
        statuses = driver.run()
        seconds = time.process_time() - start - slots.spent
        start = time.process_time()
        monitor.write()
        writing = time.process_time() - start
    assert all(s.state == "done" for s in statuses)
    segments = students * SEGMENTS
    return {
        "students": students,
        "nodes": nodes,
        "interruptions": sum(s.restarts for s in statuses),
        "segments": segments,
        "driver_ms_per_segment": 1000 * seconds / segments,
        "status_file_ms": 1000 * writing,
    }


class Slow:
    """Files whose every request takes `seconds`."""

    def __init__(self, files: Any, seconds: float) -> None:
        self._files, self._seconds = files, seconds
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._files, name)

        def request(*arguments: Any) -> Any:
            self.requests += 1
            time.sleep(self._seconds)
            return method(*arguments)

        return request


class Truth:
    """A Listener that keeps what it is told, with the time, and how long it was told nothing at the most."""

    def __init__(self) -> None:
        self.times, self.images = list[float](), list[int]()
        self.still = 0.0

    def note(self, line: str) -> None:
        pass

    def watch(self, statuses: list[StudentState]) -> None:
        now = time.time()
        self.still = max(self.still, now - self.times[-1]) if self.times else 0.0
        self.times.append(now)
        self.images.append(sum(s.progress.nimg for s in statuses if s.progress))

    def at(self, moment: float) -> int:
        return self.images[bisect.bisect_right(self.times, moment) - 1]


class Reader(threading.Thread):
    """Reads the status every second, as `msd-ray status` does. behind: seconds of the oldest that it saw. wrong: those
    that said anything else than was true when they were written, or that the driver was gone."""

    def __init__(self, store: Store, truth: Truth) -> None:
        super().__init__(daemon=True)
        self._store, self._truth = store, truth
        self.over, self.read, self.wrong, self.behind = threading.Event(), 0, 0, 0.0

    def run(self) -> None:
        while not self.over.wait(1.0):
            if not self._store.exists("status.json"):
                continue
            begun, status = time.time(), read_status(self._store)
            self.read += 1
            self.behind = max(self.behind, begun - status.time)
            said = sum(s.nimg for s in status.students)
            self.wrong += status.stale or said != self._truth.at(status.time)


def on_slow_storage(students: int, seed: int, milliseconds: float) -> dict[str, float]:
    nodes, rng, truth = max(1, students // 4), random.Random(seed), Truth()
    work = [ScheduledTask(f"student {i}", SEGMENT * SEGMENTS, SEGMENT, NoTask()) for i in range(students)]
    length = 2 * SEGMENTS * SEGMENT * PACE.image
    slots = Unhurried([Node(f"n{i}", SLOTS_PER_NODE) for i in range(nodes)], PACE, incidents(nodes, length, rng))
    with tempfile.TemporaryDirectory() as folder:
        store = Store("run", fs.SubTreeFileSystem(folder, fs.LocalFileSystem()))
        slow = store._files = Slow(store._files, milliseconds / 1000)
        start = time.monotonic()
        with held(store) as lease:
            monitor, reader = Monitor(store, 0.0, truth, [lease.refuse_if_lost]), Reader(store, truth)
            reader.start()
            statuses = Driver(work, slots, Terms(), monitor, NoPool()).run()
            reader.over.set()
            reader.join()
            seconds = time.monotonic() - start
            monitor.write(finished=True)
            entries = len(read_journal(store.child("logs"), STUDENTS))
    assert all(s.state == "done" for s in statuses)
    return {
        "students": students,
        "seconds": seconds,
        "storage_ms": milliseconds,
        "requests": slow.requests,
        "journal_entries": entries,
        "stood_still_seconds": truth.still,
        "status_read": reader.read,
        "status_wrong": reader.wrong,
        "status_behind_seconds": reader.behind,
    }


class Unhurried(SimulatedSlots):
    """So that the run takes a while on the wall as well."""

    def wait(self, seconds: float) -> Any:
        time.sleep(PAUSE)
        return super().wait(seconds)


def memory(students: int, seed: int) -> float:
    """The most that driver, monitor and simulation held at a time, in MB. In a run of its own: tracing costs time."""
    tracemalloc.start()
    try:
        measured(students, seed)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="10 and 100 students")
    parser.add_argument("--storage-ms", type=float, default=100.0, help="of each request; 0 for no such measurement")
    args = parser.parse_args()
    rows = []
    for students in [10, 100] if args.quick else args.students:
        rows.append({**measured(students, args.seed), "peak_mb": memory(students, args.seed)})
        say("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    slow = {}
    if args.storage_ms:
        slow = on_slow_storage(100 if args.quick else max(args.students), args.seed, args.storage_ms)
        say("  ".join(f"{name} {value:.4g}" for name, value in slow.items()))
    finish("scale", {"seed": args.seed, "segments_per_student": SEGMENTS, "rows": rows, "slow_storage": slow})


if __name__ == "__main__":
    main()
