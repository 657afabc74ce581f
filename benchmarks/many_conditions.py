"""What 1,000 classes and 100 students cost beside their training: plan, manifest, and what a service says of them.

python benchmarks/many_conditions.py [--classes 1000] [--students 100] [--quick]

The students are small and nobody trained them; nothing measured here depends on that.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import finish, say
from serving_ensembles import untrained

from msd_ray.ensemble import Ensemble
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_partition
from msd_ray.serving.gateway.proto_messages import ensemble_of, students_of
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.service import Service
from msd_ray.serving.service.versions import Traffic
from msd_ray.storage import Store

REPEATS = 5


def command(*words: str) -> tuple[float, int]:
    """Seconds that a command takes, and the bytes that it prints."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "msd_ray", *words], capture_output=True, check=True)
    return round(time.perf_counter() - begin, 2), len(done.stdout)


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What it makes, and the median of milliseconds."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        made = make()
        seconds.append(time.perf_counter() - begin)
    return made, round(1000 * median(seconds), 2)


def measure(classes: int, students: int, kind: str, commands: bool) -> dict[str, Any]:
    overrides = [f"data.classes={classes}", f"data.samples={8 * classes}", f"partition.k={students}"]
    overrides += [f"partition.kind={kind}", "network.width=32", "evaluation.baselines=false"]
    found: dict[str, Any] = {}
    if commands:
        found["plan_s"], _ = command("plan", "toy2d", *overrides)
        found["dry_run_s"], found["dry_run_bytes"] = command("train", "toy2d", *overrides, "--dry-run", "--json")
    begin = time.perf_counter()
    plan = RunContext.of("toy2d", overrides, None).plan
    found["make_plan_s"] = round(time.perf_counter() - begin, 2)
    with tempfile.TemporaryDirectory() as folder:
        keep_partition(Store(folder), plan.ensembles[0])
        found["partition_bytes"] = (Path(folder) / "partition.json").stat().st_size
        uri = untrained("toy2d", overrides, folder).students
        found["manifest_bytes"] = (Path(uri) / "manifest.json").stat().st_size
        _, found["open_ensemble_ms"] = timed(lambda: Ensemble.load(uri))
        version, found["describe_ms"] = timed(lambda: describe(uri))
        service = Service(None, Limits())  # type: ignore[arg-type]
        service.traffic = Traffic((version,), (1.0,))
        said, found["get_ensemble_ms"] = timed(lambda: ensemble_of(service))
        listed, found["list_students_ms"] = timed(lambda: students_of(version, service.readiness))
        found["get_ensemble_bytes"], found["list_students_bytes"] = said.ByteSize(), listed.ByteSize()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="without the commands")
    said = parser.parse_args()
    found = {}
    for kind in ("sequential", "random", "kmeans"):
        found[kind] = measure(said.classes, said.students, kind, not said.quick)
        say(f"{kind}: {found[kind]}")
    finish("many_conditions", {"classes": said.classes, "students": said.students, **found})


if __name__ == "__main__":
    main()
