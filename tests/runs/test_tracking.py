"""Curves in TensorBoard and MLflow: each point once, whatever died meanwhile."""

import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from msd_ray.cli import main
from msd_ray.errors import UserError
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import checkpoints_of
from msd_ray.runs.trackers import MLflow, TensorBoard, Tracker, tracker_of
from msd_ray.runs.tracking import points, track
from msd_ray.training.metrics import BROKEN_IMAGE, Metric
from msd_ray.training.records import LoggedSegment, Records

from .finished import finished

Point = tuple[str, int, float]
mlflow_here = pytest.mark.skipif(not find_spec("mlflow"), reason="the extra mlflow is not installed")
TRACKERS = ["tensorboard", pytest.param("mlflow", marks=mlflow_here)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """Of one student, with one segment of 64 images."""
    context = finished(tmp_path_factory.mktemp("runs") / "run", ["partition.k=1"])
    grow(context, after=None, value=3.0)
    return context


def grow(context: RunContext, after: int | None, value: float, extra: tuple[Metric, ...] = ()) -> None:
    """The log of the newest checkpoint."""
    (student,) = context.plan.students
    nimg = checkpoints_of(context.store, student).newest().nimg  # type: ignore[union-attr]
    metrics = [Metric("kd", nimg, "loss", value), Metric("kd", nimg, "wall_seconds", 2.0), *extra]
    Records(checkpoints_of(context.store, student).store).write(nimg, LoggedSegment(metrics, after))


def tracker(kind: str, folder: Path, run: str = "run") -> Tracker:
    return TensorBoard(folder, run) if kind == "tensorboard" else MLflow(f"sqlite:///{folder}/m.db", run)


def seen(kind: str, folder: Path) -> list[Point]:
    """What the program that shows curves finds of student 0."""
    if kind == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{folder}/m.db")
        (it,) = client.search_runs([client.get_experiment_by_name("run").experiment_id])
        history = [m for name in it.data.metrics for m in client.get_metric_history(it.info.run_id, name)]
        return sorted((m.key, m.step, m.value) for m in history)
    found = []
    for path in (folder / "student 0").glob("events.out.tfevents.*"):
        raw, at = path.read_bytes(), 0
        while at < len(raw):  # a record: its length in 8 bytes, a checksum in 4, itself, a checksum in 4
            (size,) = struct.unpack_from("<Q", raw, at)
            event = Event.FromString(raw[at + 12 : at + 12 + size])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            at += 16 + size
    return sorted(found)


def test_points_are_named_by_stage_and_steps_are_images() -> None:
    log = [
        Metric("dm", 100, "loss", 0.5),
        Metric("dm", 100, BROKEN_IMAGE, 7.0),
        Metric("dm", 150, "wall_seconds", 10.0),
        Metric("dm", 150, "fid@500", 3.0),
        Metric("adm", 250, "wall_seconds", 4.0),
    ]
    assert list(points(log, begin=50)) == [
        ("dm/loss", 100, 0.5),
        ("dm/wall_seconds", 150, 10.0),
        ("dm/images_per_second", 150, 10.0),
        ("dm/fid_at_500", 150, 3.0),
        ("adm/wall_seconds", 250, 4.0),
        ("adm/images_per_second", 250, 25.0),
    ]


@pytest.mark.parametrize("kind", TRACKERS)
def test_each_point_is_sent_once_though_trackers_come_and_go(kind: str, run: RunContext, tmp_path: Path) -> None:
    first = tracker(kind, tmp_path)
    assert track(run, first) == 3
    assert track(run, first) == 0
    before = seen(kind, tmp_path)
    assert [name for name, *_ in before] == ["kd/images_per_second", "kd/loss", "kd/wall_seconds"]
    again = tracker(kind, tmp_path)  # as after a kill
    track(run, again)
    assert seen(kind, tmp_path) == before
    nimg = before[0][1]
    grow(run, None, 3.0, extra=(Metric("kd", nimg, "fid@500", 9.0),))  # measured after the segment was sent
    assert track(run, again) == 1
    assert ("kd/fid_at_500", nimg, 9.0) in seen(kind, tmp_path)
    grow(run, None, 3.0)


def test_the_command_says_how_many(run: RunContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.argv = ["msd-ray", "track", run.store.uri, f"tensorboard:{tmp_path / 'curves'}"]
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().out.startswith("3 points sent to tensorboard:")
    assert len(seen("tensorboard", tmp_path / "curves")) == 3


@pytest.mark.parametrize("destination", ["", "tensorboard:", "wandb:x", "curves"])
def test_a_destination_that_there_is_not_is_refused(destination: str) -> None:
    with pytest.raises(UserError, match=r"names no tracker; write tensorboard:DIR or mlflow:URI"):
        tracker_of(destination, "run")


def test_the_folder_of_another_run_is_refused_and_left_alone(tmp_path: Path, run: RunContext) -> None:
    track(run, tracker("tensorboard", tmp_path))
    before = seen("tensorboard", tmp_path)
    with pytest.raises(UserError, match="has the curves of run; give other a folder of its own"):
        tracker("tensorboard", tmp_path, "other")
    assert seen("tensorboard", tmp_path) == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot track in"):
        tracker_of(f"tensorboard:{tmp_path}/file/curves", "run")


@mlflow_here
def test_a_uri_that_mlflow_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot track in"):
        tracker_of(f"mlflow:file://{tmp_path}", "run")
