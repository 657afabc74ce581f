"""Eight students on two nodes that come and go: does everything survive, and what does it cost?

Trains the 2-D mixture twice on a cluster of several local nodes: once left alone, once while a hand adds nodes, kills
them (kill -9), drains them as a spot instance is drained, and kills processes of students and teachers. Then it
compares: all students done, weights equal bit for bit, no image trained twice but those of the segments cut short, no
process left behind. Exits with 1 where one of these does not hold.

    python benchmarks/chaos.py [--events 24] [--seed 0] [--quick]
    python benchmarks/chaos.py --students 1 --workers 1 2   # which Ray Train gives more or fewer workers as nodes allow

Also timed: from a student's death to its next trained segment, and what the others trained meanwhile against before.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from common import finish, say, spread

from msd_ray.cluster.connect import listen_on_loopback
from msd_ray.runs.journal import read_journal, read_student_journal
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store, read_manifest

os.environ.update(
    RAY_health_check_period_ms="1000",
    RAY_health_check_timeout_ms="1000",
    RAY_health_check_failure_threshold="3",
    RAY_AUTH_MODE="disabled",
)
listen_on_loopback(None)

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from msd_ray.cluster.train import train  # noqa: E402

MOST = 4
"""Nodes beside the head at any one time."""
VICTIMS = {
    "kill student": "ray::Slot.advance",
    "kill worker": "ray::RayTrainWorker",
    "kill teacher": "ray::TeacherActor",
}
"""Titles of processes."""


@dataclass
class Ear:
    """A Listener that remembers the latest statuses, and says how far all students are."""

    statuses: list[Any] = field(default_factory=list)

    def note(self, line: str) -> None:
        say(f"  {line}")

    def watch(self, statuses: list[Any]) -> None:
        self.statuses = statuses


class Nodes:
    """The hand. Each node beside the head trains one student; the head has room for teachers only."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster, self.rng, self.nodes = cluster, rng, list[Any]()
        self.done: dict[str, int] = {}
        self.sharing = set[int]()  # how many workers shared the students before each event

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=2))

    def strike(self) -> str:
        """Does something to a node or a process; says what."""
        self.sharing.add(len(victims("kill worker")))
        kinds = ["add"] * (len(self.nodes) < MOST) + ["kill node", "drain"] * (len(self.nodes) > 1)
        kinds += [kind for kind in VICTIMS if victims(kind)]
        kind = self.rng.choice(kinds)
        {"add": self.add, "kill node": self._kill_node, "drain": self._drain}.get(kind, lambda: self._kill(kind))()
        self.done[kind] = self.done.get(kind, 0) + 1
        return kind

    def _kill_node(self) -> None:
        node = self.nodes.pop(self.rng.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)

    def _drain(self) -> None:
        """Notice of eight seconds, then the node is taken."""
        node = self.nodes.pop(self.rng.randrange(len(self.nodes)))
        command = ["ray", "drain-node", "--address", self.cluster.address, "--node-id", node.node_id]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds"]
        command[0] = str(Path(sys.executable).with_name("ray"))
        subprocess.run([*command, *why, "8"], capture_output=True, check=False, timeout=60)
        time.sleep(8)
        self.cluster.remove_node(node, allow_graceful=False)

    def _kill(self, kind: str) -> None:
        os.kill(self.rng.choice(victims(kind)).pid, signal.SIGKILL)


def workers() -> list[psutil.Process]:
    """All of Ray's worker processes that descend from this one."""
    return [p for p in psutil.Process().children(recursive=True) if "ray::" in _title(p)]


def victims(kind: str) -> list[psutil.Process]:
    """Those that are to be killed by this kind of event."""
    return [p for p in workers() if VICTIMS[kind] in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def cluster_of(workers: int, seed: int) -> Iterator[Nodes]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = Nodes(cluster, random.Random(seed))
    try:
        for _ in range(workers):
            nodes.add()
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def overrides(images: int, students: int, workers: list[int]) -> list[str]:
    stage = f"objective: dm, images: {images}, batch: 32, fake_steps: 5, warmup: 320"
    return [
        f"partition.k={students}",
        f"training.shards={workers[1]}",
        f"cluster.workers_per_student={workers}",
        f"stages={{dm: {{{stage}}}}}",
        "training.checkpoint_every=640",
        "teacher.images=25_600",
        "data.samples=1024",
        "evaluation.samples=64",
        "evaluation.curve_samples=32",
        "cluster.cpus_per_student=2",
        "cluster.pool.cpus=1",
        "cluster.max_failures=10",
    ]


def trained(context: RunContext, nodes: Nodes, events: int, patience: tuple[float, float]) -> Ear:
    """Trains the setting in a thread while this one strikes, so many times."""
    ear, errors = Ear(), list[BaseException]()

    def work() -> None:
        try:
            train(context.plan, context.store, context.cache, None, ear)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive() and not (ear.statuses and ear.statuses[0].name != "teacher"):
        time.sleep(0.2)
    for i in range(events):
        thread.join(nodes.rng.uniform(*patience))
        if not thread.is_alive():
            break
        kind = nodes.strike()
        images = sum(s.progress.nimg for s in ear.statuses if s.progress)
        say(f"  event {i + 1} of {events}: {kind}; {len(nodes.nodes)} nodes, {images} images")
    if not nodes.nodes:
        nodes.add()
    thread.join()
    if errors:
        raise errors[0]
    return ear


def weights(store: Store) -> dict[str, str]:
    """sha256 of every student."""
    return {name: entry.sha256 for name, entry in read_manifest(store.child("ensemble")).files.items()}


def reports(store: Store, students: int) -> Iterator[list[dict[str, Any]]]:
    """Per student, what its journal has about segments, in order."""
    for i in range(students):
        entries = read_student_journal(store, f"student {i}")
        segments: list[dict[str, Any]] = []
        for entry in entries:
            if "nimg" in entry and (not segments or entry["nimg"] != segments[-1]["nimg"]):
                segments.append(entry)
        yield segments


def trained_twice(store: Store, students: int) -> int:
    """Images of finished segments that were trained again: those that a checkpoint lost."""
    return sum(
        max(0, before["nimg"] - after["begin"])
        for segments in reports(store, students)
        for before, after in pairwise(segments)
    )


def recoveries(store: Store, students: int) -> list[float]:
    """Seconds from each death of a student to the end of its next segment."""
    events, found = read_journal(store, "events.jsonl"), []
    for i, segments in enumerate(reports(store, students)):
        for event in events:
            if event["event"] in ("died", "preempted") and event["student"] == f"student {i}":
                later = [s["time"] for s in segments if s["time"] > event["time"]]
                found += [later[0] - event["time"]] if later else []
    return found


def left_behind() -> list[str]:
    """Students and teachers that still live after patience."""
    deadline = time.monotonic() + 30
    while (left := [t for p in workers() if "Slot" in (t := _title(p)) or "Teacher" in t]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.5)
    return left


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=24)
    parser.add_argument("--images", type=int, default=19_200, help="per student")
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs=2, default=[1, 1], help="the fewest and the most of a student")
    parser.add_argument("--patience", type=float, nargs=2, help="seconds between events, at least and at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three events")
    args = parser.parse_args()
    if args.quick:
        args.events, args.images, args.patience = 3, 1_280, (2.0, 4.0)
    # Workers that share a student begin together, which takes them longer: they too are to get something done between.
    args.patience = args.patience or ((15.0, 30.0) if args.workers[1] > 1 else (4.0, 12.0))
    return args


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["MSD_RAY_CACHE"] = f"{temporary}/cache"
        alone, disturbed = (
            RunContext.of("toy2d", overrides(args.images, args.students, args.workers), f"{temporary}/{name}")
            for name in ("alone", "disturbed")
        )
        with cluster_of(2, args.seed) as nodes:
            say("left alone")
            start = time.monotonic()
            trained(alone, nodes, 0, (0.0, 0.0))
            quiet_seconds = time.monotonic() - start
            say("disturbed")
            start = time.monotonic()
            ear = trained(disturbed, nodes, args.events, tuple(args.patience))
            seconds, left = time.monotonic() - start, left_behind()
        found = recoveries(disturbed.store, args.students)
        verdict = {
            "all_done": [s.state for s in ear.statuses] == ["done"] * args.students,
            "bit_identical": weights(alone.store) == weights(disturbed.store),
            "no_checkpoint_lost": trained_twice(disturbed.store, args.students) == 0,
            "nothing_left_behind": not left,
            "resized": args.workers[0] == args.workers[1] or len(nodes.sharing - {0}) > 1,
        }
        finish(
            "chaos",
            {
                **verdict,
                "events": nodes.done,
                "workers": sorted(nodes.sharing - {0}),
                "interruptions": len(found),
                "seconds_to_next_segment": spread(found) if found else None,
                "seconds_alone": round(quiet_seconds, 1),
                "seconds_disturbed": round(seconds, 1),
                "images_per_student": args.images,
                "segment": 640,
                "seed": args.seed,
            },
        )
    sys.exit(0 if all(verdict.values()) else 1)


if __name__ == "__main__":
    main()
