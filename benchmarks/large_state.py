"""A student of 300 million parameters: train, save while training goes on, kill -9 while saving, resume, assemble and
generate, each in a process of its own. How long each takes, the most memory it holds, and how long training stands
still for a checkpoint.

    python benchmarks/large_state.py [--method dm] [--width 2448] [--folder F] [--quick]

The student is an MLP on toy2d with a small teacher in its own process; no Ray. Method tsm has no optimizer for a fake
score, so its state is smaller: 20 bytes for each parameter instead of 28. Three checkpoints' worth of room is needed in
the folder, which is removed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import finish, say

from msd_ray.data import load_data
from msd_ray.ensemble import Ensemble
from msd_ray.recipes import load_recipe
from msd_ray.runs.plan import Plan, make_plan
from msd_ray.runs.run_directory import assemble, checkpoints_of, keep_partition
from msd_ray.runs.teacher_cache import keep_teacher
from msd_ray.storage import Chunks, Store
from msd_ray.teachers.kept_teacher import KeptTeacher
from msd_ray.training.state import State, tensors_of

BATCH, FACTOR, GB = 4, 34, 1e9
NEVER: Callable[[], bool] = lambda: False  # noqa: E731


def plan_of(method: str, width: int) -> Plan:
    size = [f"network.width={width // FACTOR}", "network.blocks=8", f"student.channel_factor={FACTOR}"]
    begins = f"begins: {{objective: {method}, images: {BATCH * 1000}, batch: {BATCH}}}"
    follows = f"follows: {{objective: dm, images: {BATCH}, batch: {BATCH}}}"  # never reached; tsm needs one
    recipe = load_recipe(
        "toy2d",
        [*size, f"stages={{{begins}, {follows}}}", "partition.k=1", "training.keep=1", "evaluation.curve_samples=16"],
    )
    return make_plan(recipe, load_data(recipe.data), lambda: sys.exit("no features are needed"))


def training(plan: Plan, store: Store, images: int) -> Any:
    """The student, with its newest checkpoint if there is one, to be trained on so many images."""
    from msd_ray.cluster.students import RunInputs, student_task

    recipe, student = plan.recipe, plan.students[0]
    around = RunInputs(
        recipe.data,
        recipe.conditions,
        recipe.evaluation,
        store.child("cache"),
        KeptTeacher(store.child("teacher")),
        None,
        0.0,
    )
    keep_partition(store, plan.ensembles[0])
    return student_task(store, student, around, images).open()


def train(plan: Plan, store: Store) -> dict[str, float]:
    """One segment of one update; then updates while its checkpoint is written, and one without."""
    facts: dict[str, float] = {}
    student = timed(facts, "open_new_s", lambda: training(plan, store, 1000 * BATCH))
    begin, save = student.saver.begin, student.saver.checkpoints.save
    student.saver.begin = lambda state: timed(facts, "stands_still_s", lambda: begin(state))
    student.saver.checkpoints.save = lambda state: timed(facts, "write_s", lambda: save(state))
    student.advance(BATCH, [], NEVER)
    facts["state_gb"] = student.trainer.state_dict().bytes / GB
    updates = []
    while student.saver.writing:
        updates.append(seconds_of(lambda: student.trainer.advance(BATCH)))
    facts["updates_while_writing"] = len(updates)
    facts["update_while_writing_s"] = sum(updates) / max(1, len(updates))
    facts["update_alone_s"] = min(seconds_of(lambda: student.trainer.advance(BATCH)) for _ in range(2))
    return facts


def saving(plan: Plan, store: Store) -> dict[str, float]:
    """Goes on from the first checkpoint for an update, and is killed while it saves that, in the middle of a file."""
    student, write = training(plan, store, 1000 * BATCH), Store.write_chunks

    def cut_short(chunks: Chunks) -> Iterator[bytes | memoryview]:
        for chunk in chunks():
            yield chunk[: len(chunk) // 2]
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(store: Store, name: str, chunks: Chunks) -> None:
        write(store, name, partial(cut_short, chunks) if name == "fake.safetensors" else chunks)

    Store.write_chunks = dying  # type: ignore[method-assign]
    student.advance(BATCH, [], NEVER)
    student.saver.finish()
    sys.exit("it was to be killed before")


def resume(plan: Plan, store: Store) -> dict[str, float]:
    facts: dict[str, float] = {}
    student = timed(facts, "open_s", lambda: training(plan, store, 2 * BATCH))
    assert student.nimg == BATCH, "the checkpoint before the one cut short counts"
    timed(facts, "update_and_save_s", lambda: student.advance(BATCH, [], NEVER))
    return facts


def make_ensemble(plan: Plan, store: Store) -> dict[str, float]:
    facts: dict[str, float] = {}
    timed(facts, "learn_nimg_s", lambda: checkpoints_of(store, plan.students[0]).newest())
    timed(facts, "assemble_s", lambda: assemble(store, plan, plan.ensembles[0], 2 * BATCH))
    return facts


def generate(plan: Plan, store: Store) -> dict[str, float]:
    facts: dict[str, float] = {}
    ensemble = timed(facts, "describe_s", lambda: Ensemble.load(store.child("ensemble")))
    x = timed(facts, "load_and_generate_s", lambda: ensemble.generate([0], [0]))
    assert torch.isfinite(x).all()
    return facts


PHASES = {"train": train, "saving": saving, "resume": resume, "assemble": make_ensemble, "generate": generate}


def timed(facts: dict[str, float], name: str, act: Callable[[], Any]) -> Any:
    begin = time.perf_counter()
    result = act()
    facts[name] = time.perf_counter() - begin
    return result


def seconds_of(act: Callable[[], Any]) -> float:
    facts: dict[str, float] = {}
    timed(facts, "s", act)
    return facts["s"]


def in_a_process(phase: str, args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """What the phase found, and the most memory that its process held."""
    command = [sys.executable, __file__, "--phase", phase, "--folder", folder]
    child = subprocess.Popen(
        [*command, "--method", args.method, "--width", str(args.width)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    told = child.stdout.readline()
    _, status, usage = os.wait4(child.pid, 0)
    if status != (signal.SIGKILL if phase == "saving" else 0):
        sys.exit(f"{phase} failed: {status}")
    facts = json.loads(told or "{}")
    say(f"{phase}: {facts}, at most {usage.ru_maxrss * 1024 / GB:.2f} GB")
    return {**facts, "most_memory_gb": round(usage.ru_maxrss * 1024 / GB, 2)}


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    plan, store = plan_of(args.method, args.width), Store(folder)
    torch.manual_seed(0)
    facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    keep_teacher(store.child("teacher"), plan.teacher, State({"ema": tensors_of(plan.teacher.build())}, facts))
    found = {"train": in_a_process("train", args, folder)}
    found["killed"] = in_a_process("saving", args, folder)
    cut_short = [p for p in Path(folder).glob("students/0000/ckpt-*") if not (p / "manifest.json").exists()]
    for phase in ("resume", "assemble", "generate"):
        found[phase] = in_a_process(phase, args, folder)
    first = found["train"]
    first["stands_still_share"] = first["stands_still_s"] / (first["stands_still_s"] + first["write_s"])
    parameters = plan.students[0].spec.denoiser.parameters()
    return {"method": args.method, "parameters": parameters, "cut_short": len(cut_short), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--method", default="dm", help="dm or tsm")
    parser.add_argument("--width", type=int, default=72 * FACTOR, help="of the student; 2448 makes 300 million")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where there is room for three checkpoints")
    parser.add_argument("--quick", action="store_true", help="3 million parameters")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        facts = PHASES[args.phase](plan_of(args.method, args.width), Store(args.folder))
        print(json.dumps({name: round(value, 4) for name, value in facts.items()}))
        return
    args.width = 8 * FACTOR if args.quick else args.width
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        finish("large_state", measure(args, folder))


if __name__ == "__main__":
    main()
