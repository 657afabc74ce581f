"""How a run looks while it goes: live lines on a terminal, plain ones elsewhere. Progress goes to standard error."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from msd_ray.cluster.driver import Status

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
    """A Listener that shows one line per student."""

    def __init__(self) -> None:
        self._live = Live(console=err, auto_refresh=False) if err.is_terminal else None
        self._shown: dict[str, str] = {}

    def __enter__(self) -> "Watcher":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def note(self, line: str) -> None:
        err.print(line)

    def watch(self, statuses: "list[Status]") -> None:
        lines = [_line(status) for status in statuses]
        if self._live:
            self._live.update(table(_HEADERS, lines), refresh=True)
            return
        for line in lines:
            text = "  ".join(cell for cell in line if cell)
            if self._shown.get(line[0]) != text:
                self._shown[line[0]] = text
                err.print(text, soft_wrap=True)


_HEADERS = ["", "state", "stage", "kimg", "images/s", "quality", ""]


def _line(status: "Status") -> list[str]:
    p = status.progress
    cells = [status.name, status.state]
    if p is None:
        cells += ["", f"0/{status.images / 1000:g} kimg", "", ""]
    else:
        quality = f"fid@{p.fid_samples} {p.fid:.3g}" if p.fid is not None else f"loss {p.loss:.3f}"
        kimg = f"{p.nimg / 1000:.1f}/{status.images / 1000:g} kimg"
        cells += [p.stage, kimg, f"{p.images_per_second:.0f} img/s", quality]
    remark = status.error or (f"{status.restarts} restarts" if status.restarts else "")
    return [*cells, remark]
