"""A student in the process of a slot: it saves first, and what else happens then costs nothing but a warning."""

import gzip
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.errors import TrainingError, UserError
from msd_ray.recipes import load_recipe
from msd_ray.runs.plan import Plan, make_plan
from msd_ray.runs.run_directory import keep_partition
from msd_ray.storage import Store, write_bundle
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.metrics import Metric, newest_loss
from msd_ray.training.records import LoggedSegment, Records
from msd_ray.training.state import State, tensors_of

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
SEGMENT, IMAGES = 320, 960
STAGE = f"stages={{dm: {{objective: dm, images: {IMAGES}, batch: 16, fake_steps: 1}}}}"


def plan() -> Plan:
    from msd_ray.data import load_data

    recipe = load_recipe(TINY, ["partition.kind=sequential", STAGE])
    return make_plan(recipe, load_data(recipe.data), lambda: pytest.fail("no features are needed"))


def task_in(folder: Path) -> Any:
    """A student whose teacher is in its own process."""
    from msd_ray.cluster.students import RunInputs, StudentTask
    from msd_ray.runs.teacher_cache import keep_teacher
    from msd_ray.teachers.kept_teacher import KeptTeacher

    made = plan()
    recipe, spec = made.recipe, made.students[0].spec
    teacher = Store(str(folder / "teacher"))
    if not teacher.exists("manifest.json"):
        torch.manual_seed(0)
        facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
        keep_teacher(teacher, spec.denoiser, State({"ema": tensors_of(spec.denoiser.build())}, facts))
    inputs = RunInputs(
        recipe.data,
        recipe.conditions,
        recipe.evaluation,
        Store(str(folder / "cache")),
        KeptTeacher(teacher),
        None,
        0.0,
    )
    home = Store(str(folder))
    keep_partition(home, made.ensembles[0])
    return StudentTask(spec, home, range(1), home.child("student"), inputs)


def train(task: Any, training: Any = None, hurried: Callable[[], bool] = lambda: False) -> list[Any]:
    """To the end, in segments; the progress of each."""
    training, told = training or task.open(), []
    while not told or not told[-1].done:
        told.append(training.advance(SEGMENT, [], hurried))
    return told


def weights(task: Any) -> State:
    state = Checkpoints(task.checkpoints, 1).latest()
    assert state and state.meta["nimg"] == IMAGES
    return state


def same(a: State, b: State) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(value, b.tensors[part][name]) for part in a.tensors for name, value in a.tensors[part].items()
    )


def logged(task: Any, until: int = IMAGES) -> list[tuple[int, str]]:
    return [(m.nimg, m.name) for m in Records(task.checkpoints).until(until)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, list[tuple[int, str]]]:
    task = task_in(tmp_path_factory.mktemp("undisturbed"))
    train(task)
    return weights(task), logged(task)


def boom(*_: Any) -> Any:
    raise RuntimeError("boom\nand more")


@pytest.mark.parametrize("what", ["FID", "preview", "features"])
def test_a_measurement_that_raises_costs_a_warning(
    what: str,
    tmp_path: Path,
    undisturbed: tuple[State, list[tuple[int, str]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from msd_ray.cluster import student_evaluation, students

    task = task_in(tmp_path)
    if what == "preview":
        task = replace(task, inputs=replace(task.inputs, evaluation=replace(task.inputs.evaluation, preview_every=16)))
        monkeypatch.setattr(student_evaluation, "can_preview", lambda *_: True)
        monkeypatch.setattr(student_evaluation, "preview", boom)
    elif what == "FID":
        monkeypatch.setattr(student_evaluation.Judge, "fid", boom)
    else:
        monkeypatch.setattr(students, "load_features", boom)
    with caplog.at_level(logging.WARNING):
        told = train(task)
    assert same(weights(task), undisturbed[0])
    lines = [record.getMessage() for record in caplog.records]
    name = "preview" if what == "preview" else "FID"
    assert lines[0] == (
        f"{task.checkpoints.uri}: no {name} at 320 images (RuntimeError: boom and more); training goes on"
    )
    assert len(lines) == 3
    assert [m for m in logged(task) if m[1] == "unmeasured"] == [(n, "unmeasured") for n in (320, 640, 960)]
    assert [progress.fid is None for progress in told] == [name == "FID"] * 3


def test_what_is_measured_after_the_save_is_on_the_curve_and_each_row_is_there_once(
    undisturbed: tuple[State, list[tuple[int, str]]],
) -> None:
    _, rows = undisturbed
    assert [nimg for nimg, name in rows if name == "fid@16"] == [320, 640, 960]
    assert [nimg for nimg, name in rows if name == "dm"] == list(range(160, 961, 160))
    assert len(rows) == len(set(rows))


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_students import task_in, train
from msd_ray.cluster import student_evaluation, students
import threading
real, calls = student_evaluation.Judge.fid, []
def hangs(self, x):
    calls.append(1)
    if len(calls) == 2:
        threading.Event().wait()
    return real(self, x)
student_evaluation.Judge.fid = hangs
train(task_in(Path(sys.argv[1])))
"""


def killed_in_its_second_fid(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent)])
    begun, whole = Records(Store(str(folder / "student"))), Checkpoints(Store(str(folder / "student")), 1)
    deadline = time.monotonic() + 120
    while not ((record := begun.read(640)) and record.measuring and (c := whole.newest()) and c.nimg == 640):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def test_a_fid_that_hangs_is_tried_once_more_when_its_process_was_killed_and_then_never_again(
    tmp_path: Path, undisturbed: tuple[State, list[tuple[int, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    killed_in_its_second_fid(tmp_path)
    task = task_in(tmp_path)
    first = task.open()
    assert (first.nimg, first.measuring.interrupted) == (640, True)
    died = Records(task.checkpoints).read(640)
    assert died
    Records(task.checkpoints).write(640, replace(died, deaths=1))  # as if a second process had died of it
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        told = train(task)
    assert [p.fid for p in told] == [None]
    assert caplog.messages == [
        f"{task.checkpoints.uri}: 2 processes died while they measured it; it is measured no more"
    ]
    assert same(weights(task), undisturbed[0])
    assert logged(task) == [row for row in undisturbed[1] if row not in [(640, "fid@16"), (960, "fid@16")]]


def test_a_process_that_is_killed_while_it_measures_leaves_no_gap_in_the_curve(
    tmp_path: Path, undisturbed: tuple[State, list[tuple[int, str]]]
) -> None:
    killed_in_its_second_fid(tmp_path)
    task = task_in(tmp_path)
    train(task)
    assert same(weights(task), undisturbed[0])
    assert logged(task) == undisturbed[1]


def test_rows_of_images_that_were_lost_are_not_doubled(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    training = task.open()
    training.advance(SEGMENT, [], lambda: False)
    training.saver.finish()
    # died in the next segment after its rows and before its checkpoint; hurried away at another image the next time
    Records(task.checkpoints).write(640, LoggedSegment([Metric("dm", 640, "dm", 9.9)], after=320))
    again, asked = task.open(), iter(range(1000))
    again.advance(SEGMENT, [], lambda: next(asked) >= 7)
    assert 320 < again.nimg < 640
    train(task, again)
    rows = Records(task.checkpoints).until(IMAGES)
    assert 9.9 not in [m.value for m in rows]
    assert [m.nimg for m in rows if m.name == "dm"] == [160, 320, 480, 640, 800, 960]


def test_a_checkpoint_of_an_earlier_version_goes_on_with_all_that_was_logged(
    tmp_path: Path, undisturbed: tuple[State, list[tuple[int, str]]]
) -> None:
    task = task_in(tmp_path)
    training = task.open()
    training.advance(SEGMENT, [], lambda: False)
    training.rest()
    found, records = Checkpoints(task.checkpoints, 1).newest(), Records(task.checkpoints).until(SEGMENT)
    assert found
    rows = [[m.stage, m.nimg, m.name, m.value] for m in records]
    files = {name: found.stored.read(name) for name in found.manifest.files}
    files["state.json"] = json.dumps({**found.meta(), "metrics": rows}).encode()
    write_bundle(found.stored, {"parts": found.manifest.body["parts"]}, files.items())
    task.checkpoints.delete("metrics")
    train(task)
    assert same(weights(task), undisturbed[0])
    assert logged(task) == undisturbed[1]


def test_in_a_hurry_it_saves_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msd_ray.cluster import student_evaluation

    monkeypatch.setattr(student_evaluation.Judge, "fid", lambda *_: pytest.fail("there is no time for a FID"))
    task, asked = task_in(tmp_path), iter(range(1000))
    progress = task.open().advance(SEGMENT, [], lambda: next(asked) >= 3)
    assert 0 < progress.nimg < SEGMENT and not progress.writing and progress.fid is None
    newest = Checkpoints(task.checkpoints, 1).newest()
    assert newest and newest.nimg == progress.nimg


class Gate:
    """Lets checkpoints be written only once it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), 0
        save = Checkpoints.save

        def slow(checkpoints: Checkpoints, state: State) -> None:
            self.entered += 1
            assert self.open.wait(60)
            save(checkpoints, state)

        monkeypatch.setattr(Checkpoints, "save", slow)


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, undisturbed: tuple[State, list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, task = Gate(monkeypatch), task_in(tmp_path)
    training = task.open()
    first = training.advance(SEGMENT, [], lambda: False)
    assert (first.nimg, first.writing, first.saved) == (320, True, 0)
    training.trainer.advance(SEGMENT)  # nothing waits
    assert training.nimg == 640 and Checkpoints(task.checkpoints, 1).newest() is None
    gate.open.set()
    assert training.advance(0, [], lambda: False).saved == 640
    found = Checkpoints(task.checkpoints, 2).newest()
    assert found and found.nimg == 320  # what it was when it was taken, and whole: the weights are compared at the end
    train(task, task.open())
    assert same(weights(task), undisturbed[0])


def test_a_checkpoint_that_takes_long_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the driver tells a slow storage from one that hangs."""
    beats: list[int] = []
    task = task_in(tmp_path)
    training, write = task.open(), Store.write_chunks

    def noting(store: Store, name: str, chunks: Any) -> None:
        beats.append(training.current_progress().beats)
        write(store, name, chunks)

    monkeypatch.setattr(Store, "write_chunks", noting)
    training.advance(IMAGES, [], lambda: False)
    assert len(set(beats)) >= 5


@pytest.mark.parametrize("why", ["end", "hurry", "no image", "rest"])
def test_a_checkpoint_is_whole_before_others_may_take_the_student(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, task = Gate(monkeypatch), task_in(tmp_path)
    training = task.open()
    threading.Timer(0.3, gate.open.set).start()
    if why == "end":
        progress = training.advance(IMAGES, [], lambda: False)
    elif why == "hurry":
        progress = training.advance(SEGMENT, [], lambda: True)
        progress = training.advance(SEGMENT, [], lambda: training.nimg >= 16)
    else:
        assert training.advance(SEGMENT, [], lambda: False).writing
        progress = training.advance(0, [], lambda: False) if why == "no image" else training.current_progress()
        training.rest()
    assert not progress.writing
    newest = Checkpoints(task.checkpoints, 1).newest()
    assert newest and newest.nimg == training.nimg > 0


def test_what_goes_wrong_with_a_checkpoint_is_told_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise UserError("cannot write there: No space left on device; free some space")

    task = task_in(tmp_path)
    training = task.open()
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", full)
        with pytest.raises(UserError, match="cannot write there: No space left on device; free some space"):
            train(task, training)
    train(task, task.open())


def test_without_memory_for_a_copy_a_checkpoint_is_written_at_once(
    tmp_path: Path, undisturbed: tuple[State, list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_ray.training import saving

    monkeypatch.setattr(saving, "free_memory", lambda _: 1000)
    task = task_in(tmp_path)
    assert [p.writing for p in train(task)] == [False] * 3
    assert same(weights(task), undisturbed[0])


def test_storage_that_is_not_the_same_everywhere_is_told_not_trained_over(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    with pytest.raises(TrainingError) as told:
        task.open(known=320)
    assert str(told.value) == (
        f"{task.checkpoints.uri} has no checkpoint of 320 images here, though one was written: "
        "is it storage that all nodes share?"
    )
    train(task)
    damaged = next(Path(task.checkpoints.uri).glob(f"ckpt-*{IMAGES}/generator.safetensors"))
    damaged.write_bytes(b"x")
    assert task.open(known=IMAGES).nimg == 640  # that is another matter: the one before counts


def test_a_student_counts_all_the_memory_that_it_holds(tmp_path: Path) -> None:
    training = task_in(tmp_path).open()
    training.advance(SEGMENT, [], lambda: False)
    training.rest()
    trainer = training.trainer
    parts = trainer.state_dict().tensors
    held = sum(t.nbytes for tensors in parts.values() for t in tensors.values())
    teacher = sum(p.nbytes for p in trainer.teacher.denoiser.parameters())
    data = sum(t.nbytes for t in trainer._batches.tensors)
    assert data > 0 and abs(training.bytes - (held + teacher + data)) <= 64 * len(parts)


def test_the_teacher_is_read_once_for_a_new_student_and_its_checkpoint_is_enough_for_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_ray.networks.weights import StoredWeights

    task, read, asked = task_in(tmp_path), StoredWeights.read, []

    def counted(self: StoredWeights) -> Any:
        asked.append(self.store.uri)
        return read(self)

    monkeypatch.setattr(StoredWeights, "read", counted)
    train(task)
    assert asked == [task.inputs.teacher.folder.uri]


def branch_in(folder: Path) -> Any:
    """A student that branches off from a trunk, which is trained here."""
    task = task_in(folder)
    (stage,) = task.spec.stages.values()
    trunk = replace(task, spec=replace(task.spec, stages={"dm": replace(stage, shared=True)}))
    train(trunk)
    stages = {**trunk.spec.stages, "own": replace(stage, images=SEGMENT)}
    home = task.home.child("branch")
    return replace(
        trunk, spec=replace(trunk.spec, stages=stages, begins=IMAGES), checkpoints=home, trunk=trunk.checkpoints
    )


def test_a_branch_that_must_go_before_its_first_update_begins_anew_elsewhere(tmp_path: Path) -> None:
    branch = branch_in(tmp_path)
    first = branch.open().advance(SEGMENT, [], lambda: True)
    assert (first.nimg, first.saved, first.done) == (IMAGES, IMAGES, False)
    assert branch.checkpoints.names() == []
    assert train(branch, branch.open(first.saved))[-1].nimg == IMAGES + SEGMENT
    with pytest.raises(TrainingError, match="is it storage that all nodes share"):
        branch.open(IMAGES + 2 * SEGMENT)


def test_workers_that_share_a_branch_begin_where_its_trunk_ended(tmp_path: Path) -> None:
    from msd_ray.cluster.ray_train.shared import SharedTask

    branch = branch_in(tmp_path)
    shared = SharedTask(branch, plan().cluster, number=1, students=1)
    assert (shared.saved().nimg, shared.saved(IMAGES).done) == (IMAGES, False)
    train(branch)
    assert (shared.saved().nimg, shared.saved().done) == (IMAGES + SEGMENT, True)


def run_in(folder: Path) -> Any:
    """Two students of a run that has ended, with their ensemble; the task of the first."""
    from msd_ray.runs.run_directory import assemble, keep_recipe

    task, made = task_in(folder), plan()
    for student in made.students:
        mine = task.home.child("students").child(f"{student.spec.index:04d}")
        trained = replace(task, spec=student.spec, parts=student.parts, checkpoints=mine)
        train(trained)
    keep_recipe(task.home, made.recipe)
    assemble(task.home, made, made.ensembles[0])
    return replace(task, checkpoints=task.home.child("students").child("0000"))


def test_a_student_goes_on_from_another_runs_checkpoint_or_else_its_ensemble(tmp_path: Path) -> None:
    first = run_in(tmp_path / "first")
    there = Checkpoints(first.checkpoints, 1).newest()
    assert there
    inputs = replace(first.inputs, init=first.home.uri)

    def begun(afresh: Any) -> Any:
        stages = {"more": replace(first.spec.stages["dm"], afresh=afresh)}
        task = replace(
            first, spec=replace(first.spec, stages=stages), inputs=inputs, checkpoints=Store(str(tmp_path / "s"))
        )
        return task.open().trainer.state_dict()

    kept = begun(())
    assert same(kept, there.read()) and (kept.meta["nimg"], kept.meta["before"]) == (0, IMAGES)
    averaged = begun("auto").tensors
    assert same(State({"x": averaged["generator"]}, {}), State({"x": there.tensors("ema").read()}, {}))
    assert "generator_optimizer" not in averaged
    shutil.rmtree(first.checkpoints.uri)
    assert same(begun(()), State(averaged, {}))


def test_a_trace_has_the_updates_that_were_asked_for_and_changes_no_weight(tmp_path: Path) -> None:
    plain, task = task_in(tmp_path / "plain"), task_in(tmp_path / "traced")
    task = replace(task, spec=replace(task.spec, training=replace(task.spec.training, trace=3)))
    train(plain)
    train(task)
    trace = json.loads(gzip.decompress(task.checkpoints.read("trace.json.gz")))
    steps = [event for event in trace["traceEvents"] if "_fused_adam" in event.get("name", "")]
    assert len(steps) == 3 * 2  # of the generator and of the fake score
    ours, theirs = weights(task).tensors, weights(plain).tensors
    assert all(torch.equal(ours[part][name], theirs[part][name]) for part in theirs for name in theirs[part])


def test_each_segment_logs_what_its_updates_used(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    training = task.open()
    first, second = (training.advance(SEGMENT, [], lambda: False) for _ in range(2))
    training.rest()
    logged = Records(task.checkpoints).until(second.nimg)
    assert first.used and second.used and first.used.flops > 0
    assert [(m.nimg, m.value) for m in logged if m.name == "tflops"] == [
        (p.nimg, p.used.flops / 1e12) for p in (first, second) if p.used
    ]
    [(nimg, seconds)] = [(m.nimg, m.value) for m in logged if m.name == "first_update_seconds"]
    assert nimg == task.spec.stages[first.stage].batch and 0 < seconds < 60
    assert not [m for m in logged if m.name in ("mfu", "gpu_memory_gb")]  # not known on a CPU
    assert not math.isnan(newest_loss(logged))
