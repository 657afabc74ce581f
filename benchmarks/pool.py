"""What sharing one teacher costs and saves: CPU time per image, queue delay and batch size of a teacher replica that
1, 4 and 8 students ask at once, each request computed alone (`cluster.pool.deterministic`) or joined with others.

Each asker is a process that asks for a batch of random images, waits for the answer and asks again at once, so two or
more keep the replica busy. The teacher is random, of the recipe's shape. The replica has one torch thread; each row has
a new one, and while it loads the teacher nothing is counted.

    python benchmarks/pool.py [--quick] [--seconds 15] [--batch 32] [--recipe digits] [--wire fp32]

The last line of standard output is one JSON object. cpu_ms_per_image: of the replica's whole process, user and system;
maths_ms_per_image: of its computing thread alone. Delay, batch (images per forward pass) and utilisation are the
replica's own, of its last seconds. wait_ms: what an asker waits for an answer, on average.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
from common import finish, say
from plain_loop import dm_stage, random_teacher

from msd_ray.cluster.connect import connected, listen_on_loopback

listen_on_loopback(None)  # before anything imports ray

import ray  # noqa: E402
from asker import Asker  # noqa: E402

from msd_ray.cluster.pool.pool import Pool  # noqa: E402
from msd_ray.cluster.pool.replica_metrics import ReplicaMetrics  # noqa: E402
from msd_ray.networks import DenoiserSpec  # noqa: E402
from msd_ray.recipes import PoolConfig  # noqa: E402
from msd_ray.runs.run_context import RunContext  # noqa: E402
from msd_ray.runs.teacher_cache import keep_teacher, load_teacher  # noqa: E402
from msd_ray.storage import Store  # noqa: E402
from msd_ray.teachers.kept_teacher import KeptTeacher  # noqa: E402
from msd_ray.training.state import State, tensors_of  # noqa: E402

Figures = dict[str, Any]


@dataclass(frozen=True)
class Moment:
    """The replica at one time. cpu: seconds of its process."""

    time: float
    cpu: float
    metrics: ReplicaMetrics


def look_at(replica: Any) -> Moment:
    processes = psutil.Process().children(recursive=True)
    times = [p.cpu_times() for p in processes if "ray::TeacherActor" in " ".join(p.cmdline())]
    return Moment(time.monotonic(), sum(t.user + t.system for t in times), ray.get(replica.metrics.remote()))


def figures(before: Moment, after: Moment, waits: list[float]) -> Figures:
    """What lies between two moments; the queue's figures are those of the second."""
    images = after.metrics.images - before.metrics.images
    return {
        "images": images,
        "images_per_second": images / (after.time - before.time),
        "cpu_ms_per_image": 1000 * (after.cpu - before.cpu) / images,
        "maths_ms_per_image": 1000 * (after.metrics.cpu_seconds - before.metrics.cpu_seconds) / images,
        "queue_p50_ms": after.metrics.queue_p50_ms,
        "queue_p99_ms": after.metrics.queue_p99_ms,
        "batch": after.metrics.batch,
        "utilisation": after.metrics.utilisation,
        "wait_ms": 1000 * sum(waits) / len(waits),
    }


def measure(config: PoolConfig, teacher: Store, askers: list[Any], seconds: float) -> Figures:
    """One row, with a replica of its own."""
    pool = Pool(config, partial(load_teacher, KeptTeacher(teacher)))
    try:
        ray.get([asker.ask.remote(pool.replicas, 0.0) for asker in askers])  # while the teacher is loaded
        before = look_at(pool.replicas[0])
        waits = ray.get([asker.ask.remote(pool.replicas, seconds) for asker in askers])
        return figures(before, look_at(pool.replicas[0]), waits)
    finally:
        pool.stop()


def rows(args: argparse.Namespace, spec: DenoiserSpec, teacher: Store) -> list[Figures]:
    config = PoolConfig(cpus=0.1, max_batch=args.batch * max(args.askers), wire=args.wire)
    actor: Any = ray.remote(Asker).options(num_cpus=0.1)
    askers = [actor.remote(config, spec, args.batch, i) for i in range(max(args.askers))]
    measured = []
    for deterministic in (True, False):
        for n in args.askers:
            how = "alone" if deterministic else "joined"
            found = measure(replace(config, deterministic=deterministic), teacher, askers[:n], args.seconds)
            measured.append({"requests": how, "askers": n, **found})
            say(
                f"{how}, {n} askers: {found['cpu_ms_per_image']:.3f} CPU ms/image, queue p50 "
                f"{found['queue_p50_ms']:.1f} ms, p99 {found['queue_p99_ms']:.1f} ms, batch {found['batch']:.0f}"
            )
    return measured


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--askers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--seconds", type=float, default=15.0, help="per row")
    parser.add_argument("--batch", type=int, help="images per request, if other than the recipe's")
    parser.add_argument("--wire", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--quick", action="store_true", help="a second per row, at most two askers")
    args = parser.parse_args()
    if args.quick:
        args.askers, args.seconds = [1, 2], 1.0
    return args


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        context, teacher = RunContext.of(args.recipe, None, f"{temporary}/run"), Store(f"{temporary}/teacher")
        args.batch = args.batch or dm_stage(context.recipe).batch
        spec = context.plan.teacher
        facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
        keep_teacher(teacher, spec, State({"ema": tensors_of(random_teacher(spec))}, facts))
        with connected() as where:
            say(where)
            measured = rows(args, spec, teacher)
    facts = {"device": "cpu", "recipe": args.recipe, "batch": args.batch, "wire": args.wire, "seconds": args.seconds}
    finish("pool", {**facts, "rows": measured})


if __name__ == "__main__":
    main()
