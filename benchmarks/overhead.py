"""What running as a service on Ray costs: CPU seconds per training image of 4 students and a teacher pool through Ray,
over those of a plain single-process PyTorch loop with the same maths (plain_loop.py).

Each round runs a plain loop alone, and the students through Ray (Driver, slots, pool, with their checkpoints and FID
probes) with another plain loop beside them: it shares CPUs and caches with them at the same time, so what such sharing
costs, and what else the machine does, is in both alike. Every second round runs them in the opposite order. The teacher
is random. Every process has one torch thread. A student's first segment, the pool's first answers and the plain loops'
first images are not counted. CPU seconds are those of whole processes, user and system. The students train with DM
alone. They make the samples of all steps of the fake score in one pass, which the plain loops do with `--joint` only.

    python benchmarks/overhead.py [--quick] [--rounds 3] [--images 3200]

The last line of standard output is one JSON object; all costs in it are CPU milliseconds per image, unless named
otherwise. `ratio` is (students + pool) over the plain loop beside them, `ratio_alone` over the one alone. In the
`projected` ones checkpoints and probes are as rare as the recipe has them, for runs with other segments (--quick).
The daemons (raylet, gcs_server, other) and the driver are no part of any ratio.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from common import finish, say, spread
from plain_loop import dm_stage, random_teacher

from msd_ray.cluster.connect import connected, listen_on_loopback

listen_on_loopback(None)  # before anything imports ray

from measured import MeasuredProgress, MeasuredTask  # noqa: E402

from msd_ray.cluster.driver import Driver, Terms  # noqa: E402
from msd_ray.cluster.pool.client import TeacherPool  # noqa: E402
from msd_ray.cluster.pool.pool import Pool  # noqa: E402
from msd_ray.cluster.progress import StudentState  # noqa: E402
from msd_ray.cluster.ray_slots import RaySlots  # noqa: E402
from msd_ray.cluster.students import RunInputs, student_task  # noqa: E402
from msd_ray.cluster.work import ScheduledTask  # noqa: E402
from msd_ray.runs.plan import StudentPlan  # noqa: E402
from msd_ray.runs.run_context import RunContext  # noqa: E402
from msd_ray.runs.run_directory import keep_partition  # noqa: E402
from msd_ray.runs.teacher_cache import keep_teacher, load_teacher  # noqa: E402
from msd_ray.storage import Store  # noqa: E402
from msd_ray.teachers.kept_teacher import KeptTeacher  # noqa: E402
from msd_ray.training.state import State, tensors_of  # noqa: E402

Figures = dict[str, float]
PARTS = ("submit", "collect", "probe", "checkpoint")
NICENESS = 15
"""Of Ray's workers, by default."""


class PlainLoop:
    """A plain loop in a process of its own."""

    def __init__(self, args: argparse.Namespace, images: int, seed: int, niceness: int) -> None:
        script = Path(__file__).with_name("plain_loop.py")
        options = [f"--recipe={args.recipe}", f"--images={images}", f"--warmup={args.plain_warmup}", f"--seed={seed}"]
        options += ["--joint"] if args.joint else []
        command = [sys.executable, str(script), *options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=partial(os.nice, niceness)
        )

    def cost(self) -> float:
        """CPU milliseconds per image, once it has ended."""
        found = json.loads(self._process.communicate()[0])
        return float(1000 * found["cpu_seconds"] / found["images"])


@dataclass
class Observer:
    """Follows a run of the Driver. seen: each student's progress after each segment. Ray's own processes are looked at
    when all students are past their first segment, and last before any is done. begin: called when all are past it."""

    seen: dict[str, list[MeasuredProgress]] = field(default_factory=dict)
    sweeps: list[tuple[int, Figures]] = field(default_factory=list)
    begin: Callable[[], object] = lambda: None

    def watch(self, statuses: list[StudentState]) -> None:
        for s in statuses:
            known = self.seen.setdefault(s.name, [])
            if isinstance(s.progress, MeasuredProgress) and (not known or s.progress.nimg > known[-1].nimg):
                known.append(s.progress)
                say(f"  {s.name}: {s.progress.nimg}/{s.images} images, {s.progress.images_per_second:.0f} img/s")
        if all(self.seen.values()) and not any(s.state == "done" for s in statuses):
            if not self.sweeps:
                self.begin()
            self.sweeps.append((sum(known[-1].nimg for known in self.seen.values()), own_processes()))

    def event(self, kind: str, **facts: Any) -> None:
        pass

    def daemons(self) -> Figures:
        """CPU milliseconds per image of Ray's daemons and of the driver, between the first look and the last; nothing
        where a student was done before all had begun."""
        if not self.sweeps:
            return {}
        (begin, before), (end, after) = self.sweeps[0], self.sweeps[-1]
        if end == begin:
            return {}
        return {name: 1000 * (after[name] - before.get(name, 0.0)) / (end - begin) for name in sorted(after)}


def own_processes() -> Figures:
    """CPU seconds so far of this process and of its descendants that are neither student nor teacher."""
    used = {"driver": time.process_time()}
    for process in psutil.Process().children(recursive=True):
        kind = kind_of(process)
        if kind:
            used[kind] = used.get(kind, 0.0) + cpu_of(process)
    return used


def kind_of(process: psutil.Process) -> str:
    """raylet, gcs_server or other; empty for actors and plain loops."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    name = Path(command[0]).name if command else ""
    if (name.startswith("ray::") and "IDLE" not in name) or any("plain_loop" in word for word in command):
        return ""
    return name if name in ("raylet", "gcs_server") else "other"


def cpu_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def teacher_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [p for p in children if "ray::TeacherActor" in " ".join(p.cmdline())]


def ray_round(context: RunContext, students: list[StudentPlan], store: Store, begin: Callable[[], object]) -> Figures:
    """One run of all students through Ray, as msd_ray.cluster.train does it, but with clocks. begin: called when all
    are past their first segment."""
    recipe, cluster = context.recipe, context.recipe.cluster
    teacher = KeptTeacher(store.child("teacher"))
    pool = Pool(cluster.pool, partial(load_teacher, teacher, training=recipe.training))
    keep_partition(store, context.plan.ensembles[0])
    around = RunInputs(recipe.data, recipe.conditions, recipe.evaluation, context.cache, teacher, cluster.pool, 0.0)

    def work(student: StudentPlan) -> ScheduledTask:
        task = MeasuredTask(student_task(store, student, around))
        return ScheduledTask(student.name, student.spec.images, student.spec.training.checkpoint_every, task)

    client = TeacherPool(cluster.pool)
    client.use(pool.replicas)
    warm_up(client, context, dm_stage(recipe).batch)
    processes, observer = teacher_processes(), Observer(begin=begin)
    before = sum(cpu_of(p) for p in processes)
    slots = RaySlots(cluster.cpus_per_student, 0.0, lambda: len(students))
    statuses = Driver([work(student) for student in students], slots, Terms(max_failures=0), observer, pool).run()
    slots.close()
    pool_seconds = sum(cpu_of(p) for p in processes) - before
    pool.stop()
    if failed := [s.error for s in statuses if s.state != "done"]:
        raise SystemExit(f"a student failed: {failed[0]}")
    return costs(observer, pool_seconds)


def warm_up(pool: TeacherPool, context: RunContext, batch: int) -> None:
    for _ in range(5):
        pool(torch.randn(batch, *context.data.shape), torch.ones(batch), torch.zeros(batch, dtype=torch.long))


def costs(observer: Observer, pool_seconds: float) -> Figures:
    """CPU milliseconds per image by where they went, of all students after their first segments."""
    first, last = ([known[i] for known in observer.seen.values()] for i in (0, -1))
    images = sum(p.nimg for p in last) - sum(p.nimg for p in first)
    everything = sum(p.nimg for p in last)

    def per_image(value: Callable[[MeasuredProgress], float]) -> float:
        return 1000 * (sum(map(value, last)) - sum(map(value, first))) / images

    def part(name: str, clock: str = "cpu") -> float:
        return per_image(lambda p: (getattr(p, clock) or {}).get(name, 0.0))

    students, pool, segment = per_image(lambda p: p.process), 1000 * pool_seconds / everything, part("segment")
    pool_maths = 1000 * sum(p.teacher for p in last) / everything
    segments = sum(len(known) - 1 for known in observer.seen.values())
    return {
        "students": students,
        "pool": pool,
        "student_training": segment - sum(part(name) for name in PARTS),
        "student_requests": part("submit") + part("collect"),
        "student_other_threads": students - segment,
        "student_probe": part("probe"),
        "student_checkpoint": part("checkpoint"),
        "pool_maths": pool_maths,
        "pool_handling": pool - pool_maths,
        "probe_ms_per_segment": part("probe") * images / segments,
        "checkpoint_ms_per_segment": part("checkpoint") * images / segments,
        "waiting_share_of_wall": part("collect", "wall") / part("segment", "wall"),
        **{f"daemons_{name}": value for name, value in observer.daemons().items()},
    }


def students_of(context: RunContext, args: argparse.Namespace, seed: int) -> list[StudentPlan]:
    """The recipe's students, but DM alone, `args.images` long."""
    stages = {"dm": replace(dm_stage(context.recipe), images=args.images)}
    students = context.plan.ensembles[0].students
    training = replace(
        context.recipe.training, checkpoint_every=args.segment or context.recipe.training.checkpoint_every
    )
    return [replace(s, spec=replace(s.spec, stages=stages, seed=seed, training=training)) for s in students]


def one_round(context: RunContext, args: argparse.Namespace, store: Store, seed: int) -> Figures:
    """Everything once, in the opposite order every second time."""
    figures: Figures = {}

    def alone() -> None:
        figures["plain_alone"] = PlainLoop(args, args.plain_images, seed, 0).cost()

    def through_ray() -> None:
        teacher = random_teacher(context.plan.teacher)
        facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
        keep_teacher(store.child("teacher"), context.plan.teacher, State({"ema": tensors_of(teacher)}, facts))
        beside: list[PlainLoop] = []

        def begin() -> None:
            beside.append(PlainLoop(args, args.plain_images // 2, seed, NICENESS))

        figures.update(ray_round(context, students_of(context, args, seed), store, begin))
        if not beside:
            raise SystemExit("a student was done before all had begun: give it more --images")
        figures["plain"] = beside[0].cost()

    phases = [alone, through_ray]
    for phase in phases[:: -1 if seed % 2 else 1]:
        phase()
    return with_ratios(figures, context.recipe.training.checkpoint_every)


def with_ratios(figures: Figures, every: int) -> Figures:
    total = figures["students"] + figures["pool"]
    occasional = figures["student_probe"] + figures["student_checkpoint"]
    projected = total - occasional + (figures["probe_ms_per_segment"] + figures["checkpoint_ms_per_segment"]) / every
    return {
        "ratio": total / figures["plain"],
        "ratio_projected": projected / figures["plain"],
        "ratio_alone": total / figures["plain_alone"],
        "ratio_alone_projected": projected / figures["plain_alone"],
        **figures,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=3200, help="images per student, its first segment included")
    parser.add_argument("--plain-images", type=int, default=3200, help="of the plain loop alone; half of it beside")
    parser.add_argument("--plain-warmup", type=int, default=160)
    parser.add_argument("--joint", action="store_true", help="give the plain loops the trainer's own shortcut")
    parser.add_argument("--segment", type=int, help="images between checkpoints, if other than the recipe's")
    parser.add_argument("--quick", action="store_true", help="one short round of two students")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.images, args.segment, args.plain_images, args.plain_warmup = 1, 320, 64, 320, 32
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    rounds = []
    with tempfile.TemporaryDirectory() as temporary:
        context = RunContext.of(args.recipe, [f"partition.k={2 if args.quick else 4}"], f"{temporary}/run")
        with connected() as where:
            say(where)
            for seed in range(args.rounds):
                say(f"round {seed + 1} of {args.rounds}")
                rounds.append(one_round(context, args, Store(f"{temporary}/round-{seed}"), seed))
                say(f"  ratio {rounds[-1]['ratio']:.3f}, over a loop alone {rounds[-1]['ratio_alone']:.3f}")
    names = sorted(set.intersection(*(set(r) for r in rounds)), key=list(rounds[0]).index)
    finish(
        "overhead",
        {
            "device": "cpu",
            "recipe": args.recipe,
            "students": len(context.plan.ensembles[0].students),
            "batch": dm_stage(context.recipe).batch,
            "images_per_student": args.images,
            "images_plain": args.plain_images,
            "checkpoint_every": args.segment or context.recipe.training.checkpoint_every,
            "joint": args.joint,
            "rounds": args.rounds,
            "seeds": list(range(args.rounds)),
            "figures": {name: spread([r[name] for r in rounds]) for name in names},
        },
    )


if __name__ == "__main__":
    main()
