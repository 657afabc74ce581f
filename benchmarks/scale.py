"""The driver with many students: its CPU time per segment and its memory, on a cluster that is simulated.

The real Driver, Scheduler and Board run against SimulatedSlots: students take turns on fewer slots, nodes vanish and
others join throughout. Only the driver's own time counts, not the simulation's. There are no Ray calls in it: a segment
through Ray costs the driver one remote call, one wait and one get more.

    python benchmarks/scale.py [--students 10 100 1000] [--seed 0] [--quick]
"""

import argparse
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import wraps
from typing import Any

from common import finish, say

from msd_ray.cluster.board import Board
from msd_ray.cluster.driver import Driver, Terms
from msd_ray.cluster.planning.simulation import Incident, Node, NoTask, Pace, SimulatedSlots
from msd_ray.cluster.status import Status
from msd_ray.cluster.support import NoPool
from msd_ray.cluster.work import Work
from msd_ray.storage import Store

PACE = Pace(image=0.01, segment=1.0, open=3.0, start=5.0)
SEGMENT, SEGMENTS = 1_000, 20
SLOTS_PER_NODE = 2


class Deaf:
    def note(self, line: str) -> None:
        pass

    def watch(self, statuses: list[Status]) -> None:
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
    work = [Work(f"student {i}", SEGMENT * SEGMENTS, SEGMENT, NoTask()) for i in range(students)]
    length = 2 * SEGMENTS * SEGMENT * PACE.image
    slots = TimedSlots([Node(f"n{i}", SLOTS_PER_NODE) for i in range(nodes)], PACE, incidents(nodes, length, rng))
    with tempfile.TemporaryDirectory() as folder:
        board = Board(Store(folder), 0.0, Deaf(), [])
        driver = Driver(work, slots, Terms(), board, NoPool())
        start = time.process_time()
        statuses = driver.run()
        seconds = time.process_time() - start - slots.spent
        start = time.process_time()
        board.write()
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


def memory(students: int, seed: int) -> float:
    """The most that driver, board and simulation held at a time, in MB. In a run of its own: tracing costs time."""
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
    args = parser.parse_args()
    rows = []
    for students in [10, 100] if args.quick else args.students:
        rows.append({**measured(students, args.seed), "peak_mb": memory(students, args.seed)})
        say("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    finish("scale", {"seed": args.seed, "segments_per_student": SEGMENTS, "rows": rows})


if __name__ == "__main__":
    main()
