"""Ten hours in ten minutes: does a service stay as it is, whatever is done to it?

The service runs on Ray Serve with two processes for each student and two gateways. Callers ask as fast as they are
answered, and compare every image bit for bit with what the ensemble makes. Beside them callers cancel calls, leave
streams, read slowly, and hold connections open without a word. Meanwhile replicas and gateways are killed with -9 and
stopped with SIGSTOP, and versions are updated, tried as canaries and rolled back, in random order. One replica and one
gateway are spared, so that their memory is seen from begin to end.

Exits with 1 unless: no image was wrong; each call ended within its deadline; the service ended with 0 when it was told
to; the memory of each process that lived on grew by at most 5 % after the first quarter of the time. A run of less than
five minutes does not judge memory.

    python benchmarks/soak.py [--minutes 10] [--callers 8] [--pause 4] [--seed 0] [--quick]
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import finish, say
from served import (
    GATEWAY,
    SEEDS,
    STUDENT,
    WHERE,
    Answers,
    Served,
    answers_of,
    random_ensemble,
    replicas_of_each,
    served,
)
from soak_callers import Callers
from soak_memory import Memory

from msd_ray.serving.client import Client

BLOWS, CHANGES = ("kill student", "kill gateway", "stop student"), ("update", "canary", "rollback")
FLAT, WARM, JUDGED = 0.05, 0.25, 300.0
"""Growth of memory that is flat; the share of the time that is warm-up; seconds of a run whose memory is judged."""


class Hand:
    """Does things to a service. versions: URIs by name, the served one first. pause: seconds between two things, on
    average. done: how often each was done."""

    def __init__(self, service: Served, versions: dict[str, str], pause: float, seed: int) -> None:
        self._service, self._versions, self._pause, self._seed = service, versions, pause, seed
        self._names = list(versions)
        self.done, self.spared = Counter[str](), spared(service)

    def strike(self, end: float) -> None:
        """Kills and stops processes until `end` of the monotonic clock."""
        self._repeat(BLOWS, end, self._signal)

    def change(self, end: float) -> None:
        """Changes versions as long, in the order of CHANGES at first, so that there is what to roll back to."""
        self._repeat(CHANGES, end, self._change)

    def _repeat(self, kinds: Sequence[str], end: float, act: Callable[[str, random.Random], bool]) -> None:
        """Each kind once before any comes again."""
        rng, deck = random.Random(f"{self._seed} {kinds}"), list(kinds)
        while time.monotonic() < end:
            time.sleep(self._pause * rng.uniform(0.5, 1.5))
            kind = deck.pop(0)
            deck = deck or rng.sample(kinds, len(kinds))
            done = kind if act(kind, rng) else f"{kind}: not possible"
            self.done[done] += 1
            say(f"  {done}")

    def _signal(self, kind: str, rng: random.Random) -> bool:
        title = GATEWAY if "gateway" in kind else STUDENT
        found = [process for process in self._service.replicas(title) if process.pid not in self.spared]
        if found:
            victim = rng.choice(found)
            victim.kill() if "kill" in kind else victim.suspend()
        return bool(found)

    def _change(self, kind: str, rng: random.Random) -> bool:
        if kind == "rollback":
            return self._told("rollback")
        self._names.append(self._names.pop(0))
        name = self._names[0]
        share = ("--weight", "0.3") if kind == "canary" else ()
        return self._told("update", self._versions[name], "--name", name, *share)

    def _told(self, command: str, *arguments: str) -> bool:
        try:
            self._service.told(command, *arguments)
        except subprocess.CalledProcessError as error:
            say(f"  {command}: {error.stderr.strip()[-300:]}")
            return False
        return True


def spared(service: Served) -> set[int]:
    """The oldest gateway and the oldest replica of the student that all versions have."""
    with Client(WHERE) as client:
        title = f"{STUDENT}{client.students().students[0].student_version}"
    return {service.replicas(GATEWAY)[0].pid, service.replicas(title)[0].pid}


def all_right(right: Answers) -> bool:
    """Whether the service, left alone again, makes what it has to."""
    pairs = [(c, s) for c in range(10) for s in range(SEEDS)]
    with Client(WHERE, seconds=60) as client:
        made = client.generate([c for c, _ in pairs], [s for _, s in pairs], "float32")
    return all(image.data == right[image.version, image.class_id, image.seed] for image in made)


def soaked(service: Served, versions: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    right = {key: data for name, uri in versions.items() for key, data in answers_of(uri, name).items()}
    hand, begin, seconds = Hand(service, versions, args.pause, args.seed), time.monotonic(), 60 * args.minutes
    watch, callers = Memory(service.process.pid, max(1.0, seconds / 200)), Callers(right, args.callers)
    with watch as memory, callers, ThreadPoolExecutor(1) as others:
        changing = others.submit(hand.change, begin + seconds)
        hand.strike(begin + seconds)
        changing.result()
    processes = memory.growth(WARM * seconds)
    verdict = {
        "no_wrong_bit": not callers.wrong and all_right(right),
        "no_stuck_request": not callers.stuck and not callers.error,
        "memory_flat": all(of["growth"] <= FLAT for of in processes.values()) if seconds >= JUDGED else None,
    }
    return {
        **verdict,
        "events": dict(hand.done),
        "seconds": round(time.monotonic() - begin, 1),
        **{name: getattr(callers, name) for name in ("images", "wrong", "stuck", "error")},
        "calls": dict(callers.calls),
        "failed": dict(callers.failed),
        "longest_s": {kind: round(took, 2) for kind, took in callers.longest.items()},
        "spared": sorted(hand.spared),
        "memory": processes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=8, help="that compare images, beside those that misbehave")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between two events of a kind, on average")
    parser.add_argument("--seed", type=int, default=0, help="of the events")
    parser.add_argument("--quick", action="store_true", help="15 seconds, three callers")
    args = parser.parse_args()
    if args.quick:
        args.minutes, args.pause, args.callers = 0.25, 2.0, 3
    with tempfile.TemporaryDirectory() as folder:
        uris = [random_ensemble(Path(folder) / str(seed), seed) for seed in (1, 2, 3)]
        with served(uris[0], "gateway.replicas=2", *replicas_of_each(2)) as service:
            found = soaked(service, dict(zip((service.first, "second", "third"), uris, strict=True)), args)
            begin, found["exit_code"] = time.monotonic(), service.stop()
            found["stopping_s"] = round(time.monotonic() - begin, 1)
    load = {"minutes": args.minutes, "callers": args.callers, "pause_s": args.pause, "seed": args.seed}
    finish("soak", {**found, **load})
    kept = found["no_wrong_bit"] and found["no_stuck_request"] and found["memory_flat"] is not False
    sys.exit(0 if kept and found["exit_code"] == 0 else 1)


if __name__ == "__main__":
    main()
