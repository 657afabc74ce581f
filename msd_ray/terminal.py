"""How a run looks while it goes: live lines on a terminal, plain ones elsewhere. Progress goes to standard error."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from msd_ray.formatting import duration, size
from msd_ray.stopping import STOP

if TYPE_CHECKING:
    from msd_ray.cluster.planning.forecast import Forecast
    from msd_ray.cluster.planning.outlook import Outlook
    from msd_ray.cluster.progress import StudentState
    from msd_ray.runs.run_status import RunStatus

out = Console()
wide = Console(width=max(out.width, 160))  # for tables: rather wrapped by the terminal than cut off
err = Console(stderr=True, highlight=False)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    result = Table(box=None, pad_edge=False)
    for i, header in enumerate(headers):
        result.add_column(header, justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        result.add_row(*row)
    return result


class Watcher:
    """A Listener that shows one line per student. What others print meanwhile (Ray, of processes that die) goes to
    standard error as well: standard output is for results."""

    def __init__(self) -> None:
        self._aside = redirect_stdout(sys.stderr)
        self._live = Live(console=err, auto_refresh=False) if err.is_terminal else None
        self._seen: list[StudentState] = []
        self._shown: dict[str, tuple[str, str, float]] = {}
        self._ending = ExitStack()

    def __enter__(self) -> "Watcher":
        self._aside.__enter__()
        if self._live:
            self._ending.enter_context(STOP.before_the_end(self._live.stop))
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self._ending.close()
        self._aside.__exit__(kind, error, trace)

    def note(self, line: str) -> None:
        err.print(line, soft_wrap=True)

    def watch(self, statuses: "list[StudentState]") -> None:
        changed = [s for i, s in enumerate(statuses) if i >= len(self._seen) or s is not self._seen[i]]
        self._seen = statuses
        if self._live and changed:
            self._live.update(table(_HEADERS, [_line(status) for status in statuses]), refresh=True)
        if self._live:
            return
        for status in changed:
            self._print(status)

    def _print(self, status: "StudentState") -> None:
        """A plain line, unless there was one like it; one about the way through a segment now and then only."""
        text = "  ".join(cell for cell in _line(status) if cell)
        before, state, at = self._shown.get(status.name, ("", "", 0.0))
        minor = status.live and status.doing == state and time.monotonic() - at < EVERY
        if text != before and not minor:
            self._shown[status.name] = text, status.doing, time.monotonic()
            err.print(text, soft_wrap=True)


EVERY = 10.0
"""Seconds between two plain lines about the way through a student's segment."""
_HEADERS = ["", "state", "stage", "kimg", "images/s", "quality", "left", ""]


def _line(status: "StudentState") -> list[str]:
    p = status.newest
    cells = [status.name, status.doing]
    if p is None:
        cells += ["", f"{status.begins / 1000:g}/{status.images / 1000:g} kimg", "", "", ""]
    else:
        kimg = f"{p.nimg / 1000:.1f}/{status.images / 1000:g} kimg"
        left = f"{duration(status.left)} left" if status.left else ""
        cells += [p.stage, kimg, f"{p.images_per_second:.0f} img/s", status.quality, left]
    remark = status.error or (f"{status.restarts} restarts" if status.restarts else "")
    return [*cells, remark]


def status_lines(status: "RunStatus") -> list[str]:
    """What `status` says of a run as a whole."""
    done = sum(s.state == "done" for s in status.students)
    lines = [f"{done} of {len(status.students)} done, {sum(s.state == 'failed' for s in status.students)} failed"]
    if status.stopped:
        lines.append("stopped: the same command goes on")
    elif status.finished:
        lines.append("finished")
    elif status.stale:
        lines.append(
            f"its driver ({status.driver}) is gone, and was last heard of {duration(status.heard())} ago: the same "
            f"command goes on"
        )
    else:
        lines.append(
            f"{status.slots} slots, {status.images_per_second:.0f} images/s, "
            f"about {duration(status.seconds_left)} left (driver {status.driver})"
        )
    cost = f", cost {status.cost:.2f}" if status.price else ""
    lines.append(f"{status.slot_seconds / 3600:.2f} slot hours{cost}")
    lines += [f"{place} gets no students for a while: {why}" for place, why in status.shunned.items()]
    if p := status.pool:
        lines.append(
            f"teacher pool: {p['replicas']:.0f} replicas, {p['utilisation']:.0%} busy, "
            f"queue {p['queue_p50_ms']:.1f} ms (p99 {p['queue_p99_ms']:.1f}), {p['batch']:.0f} images per forward pass"
        )
    return lines


def status_rows(status: "RunStatus") -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the table that `status` prints. If students branch off from a trunk, it says from which one,
    and what they train on themselves."""
    tree = any(s.trunk for s in status.students)
    origin, own = (["branches off from"], ["kimg of its own"]) if tree else ([], [])
    gpu = ["MFU", "GPU memory"] if any(s.memory for s in status.students) else []
    speed = ["images/s", "TFLOP/s", *gpu, "waits"]
    progress = ["stage", "kimg", *own, *speed, "restarts", "trained", "left", "loss", "quality"]
    rows = [
        [
            s.name,
            *([s.trunk] if tree else []),
            s.state,
            s.stage,
            f"{s.nimg / 1000:.1f}/{s.images / 1000:g}",
            *([f"{s.own_nimg / 1000:.1f}/{s.own_images / 1000:g}"] if tree else []),
            f"{s.images_per_second:.0f}",
            f"{s.flops / 1e12:.3g}" if s.flops else "-",
            *([f"{s.mfu:.1%}" if s.mfu else "-", size(s.memory)] if gpu else []),
            f"{s.waited:.1%}",
            str(s.restarts),
            duration(s.seconds),
            duration(s.left),
            "-" if s.loss is None else f"{s.loss:.3f}",
            s.quality,
            s.error,
        ]
        for s in status.students
    ]
    return ["student", *origin, "state", *progress, ""], rows


def needs_lines(outlook: "Outlook") -> list[str]:
    """What `plan` says of memory, checkpoints and updates."""
    needs = outlook.to_json()
    of = {key: size(value) for key, value in needs.items() if isinstance(value, int)}
    student, checkpoint = of.get("student_memory", "not known"), of.get("student_checkpoint", "not known")
    flops = (f"{name} {count / 1e9:.3g} GFLOP" for name, count in needs.get("flops_per_image", {}).items())
    who = "a student" if needs["workers"] == 1 else f"each of a student's {needs['workers']} workers"
    return [
        f"memory: {who} {student} on its device, and in the host's {checkpoint} while it saves a checkpoint; a "
        f"teacher replica {of['teacher_replica_memory']}; training the teacher {of['teacher_training_memory']}; "
        f"each process {of['libraries']} of libraries",
        f"checkpoints: of a student {checkpoint}, of the teacher {of['teacher_checkpoint']}; ensemble {of['ensemble']}",
        f"operations per image: {', '.join(flops) or 'not known'}",
        f"updates: {needs['steps']}",
    ]


def forecast_lines(forecast: "Forecast") -> list[str]:
    """What `plan` says of a run as a whole."""
    f = forecast
    parts = {"training the teacher": f.teacher_seconds, "making its pairs": f.pairs_seconds}
    before = [f"{duration(seconds)} of it {what}" for what, seconds in parts.items() if seconds]
    gpus = f", {f.gpu_hours:.2f} GPU hours" if f.gpu_hours else ""
    cost = f", cost {f.cost:.2f}" if f.cost else ""
    lines = [
        f"wall time: {', '.join([duration(f.seconds), *before])}, without the evaluation",
        f"slots: {f.slots} students at a time, {f.slot_hours:.2f} slot hours{gpus}{cost}",
    ]
    if f.replicas:
        lines.append(f"teacher replicas: {f.replicas}, and {f.replicas_needed} needed so that no student waits")
    return lines


def with_forecast(students: list[dict[str, str]], forecast: "Forecast") -> list[dict[str, str]]:
    """The rows of `plan`'s table, with what is forecast of each student."""
    return [
        {
            **row,
            "images/s": f"{s.images_per_second:.3g}",
            "in a slot": duration(s.seconds),
            "done after": duration(s.done_after),
        }
        for row, s in zip(students, forecast.students, strict=True)
    ]
