"""Programs that show curves, and how each is given those of students. Steps are images seen."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from msd_ray.errors import UserError, one_line
from msd_ray.extras import needed

_RUN, _STUDENT = "msd_ray_run.txt", "msd_ray.student"
_AT_ONCE = 1000
"""Points that MLflow takes in one request."""


class Tracker(Protocol):
    def reached(self, student: str, curve: str) -> int:
        """The last step of the curve that it has; -1 if none."""

    def write(self, student: str, points: Iterable[tuple[str, int, float]]) -> None:
        """points: (curve, step, value), each beyond what it has of its curve, the steps of a curve ascending."""


def tracker_of(destination: str, run: str) -> Tracker:
    """destination: tensorboard:DIR or mlflow:URI. run: the uri of the run. Raises UserError for any other, or where it
    cannot be written to."""
    kind, _, where = destination.partition(":")
    if kind not in ("tensorboard", "mlflow") or not where:
        raise UserError(f"{destination!r} names no tracker; write tensorboard:DIR or mlflow:URI")
    return TensorBoard(Path(where), run) if kind == "tensorboard" else MLflow(where, run)


class TensorBoard:
    """Event files, in a folder for each student. Whoever tracks the run writes them anew from its beginning: so no
    point is there twice, however the process before ended."""

    def __init__(self, folder: Path, run: str) -> None:
        """Raises UserError for a folder with the curves of another run, or one that cannot be written to."""
        self._folder, self._writers = folder, dict[str, Any]()
        self._reached: dict[tuple[str, str], int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mark = folder / _RUN
            if mark.exists() and mark.read_text() != run:
                raise UserError(f"{folder} has the curves of {mark.read_text()}; give {run} a folder of its own")
            mark.write_text(run)
            for old in folder.glob("*/events.out.tfevents.*.msd_ray"):
                old.unlink()
        except OSError as error:
            raise UserError(f"cannot track in {folder}: {one_line(error)}; give another folder") from error

    def reached(self, student: str, curve: str) -> int:
        return self._reached.get((student, curve), -1)

    def write(self, student: str, points: Iterable[tuple[str, int, float]]) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # when it is needed: takes half a second
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        if student not in self._writers:
            folder = self._folder / student
            folder.mkdir(exist_ok=True)
            self._writers[student] = EventsWriter(str(folder / "events"), filename_suffix=".msd_ray")
        writer = self._writers[student]  # not its SummaryWriter, whose flush leaves what is queued behind
        for curve, step, value in points:
            writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(curve, value)))
            self._reached[student, curve] = step
        writer.flush()


class MLflow:
    """A run of MLflow for each student, in an experiment with the name of our run."""

    def __init__(self, uri: str, run: str) -> None:
        """Raises UserError where MLflow is not installed or cannot use the uri."""
        self._entities, self._reached = needed("mlflow.entities", "mlflow"), dict[tuple[str, str], int]()
        self._runs: dict[str, str] = {}
        try:
            self._client = needed("mlflow", "mlflow").MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(run)
            self._experiment = known.experiment_id if known else self._client.create_experiment(run)
        except needed("mlflow.exceptions", "mlflow").MlflowException as error:
            raise UserError(f"cannot track in {uri}: {one_line(error)}") from error

    def reached(self, student: str, curve: str) -> int:
        if (student, curve) not in self._reached:
            steps = [m.step for m in self._client.get_metric_history(self._run(student), curve)]
            self._reached[student, curve] = max(steps, default=-1)
        return self._reached[student, curve]

    def write(self, student: str, points: Iterable[tuple[str, int, float]]) -> None:
        given = list(points)
        metrics = [self._entities.Metric(curve, value, 0, step) for curve, step, value in given]
        for begin in range(0, len(metrics), _AT_ONCE):
            self._client.log_batch(self._run(student), metrics[begin : begin + _AT_ONCE])
        self._reached |= {(student, curve): step for curve, step, _ in given}

    def _run(self, student: str) -> str:
        if student not in self._runs:
            found = self._client.search_runs([self._experiment], f"tags.`{_STUDENT}` = '{student}'")
            run = (
                found[0]
                if found
                else self._client.create_run(self._experiment, tags={_STUDENT: student}, run_name=student)
            )
            self._runs[student] = run.info.run_id
        return self._runs[student]
