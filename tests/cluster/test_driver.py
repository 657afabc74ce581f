"""The driver's bookkeeping, with actors that only count."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msd_ray.errors import TrainingError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


class Counter:
    """Counts images in a file, so that a new process goes on where the last one stopped."""

    def __init__(self, file: str, total: int, fatal: Callable[[int], None]) -> None:
        self.file, self.total, self.fatal = Path(file), total, fatal

    def advance(self, images: int) -> Any:
        from msd_ray.cluster.actors import Progress

        nimg = int(self.file.read_text()) if self.file.exists() else 0
        self.fatal(nimg)
        nimg = min(nimg + images, self.total)
        self.file.write_text(str(nimg))
        return Progress(nimg, "stage", 1.0, nimg >= self.total)


def nothing(nimg: int) -> None:
    pass


def works(folder: Path, fatal: dict[int, Callable[[int], None]], n: int = 3) -> list[Any]:
    import ray

    from msd_ray.cluster.driver import Work

    actor: Any = ray.remote(Counter).options(num_cpus=0.1)

    def starter(i: int) -> Callable[[], Any]:
        return lambda: actor.remote(str(folder / str(i)), 40, fatal.get(i, nothing))

    return [Work(f"student {i}", 40, 10, starter(i)) for i in range(n)]


def drive(work: list[Any], slots: int = 3, max_failures: int = 2) -> tuple[list[Any], list[list[Any]]]:
    from msd_ray.cluster.driver import Driver

    seen: list[list[Any]] = []
    return Driver(work, slots, max_failures, seen.append).run(), seen


def test_all_finish_and_wait_for_a_slot(tmp_path: Path) -> None:
    statuses, seen = drive(works(tmp_path, {}), slots=1)
    assert [s.state for s in statuses] == ["done"] * 3
    assert [s.progress.nimg for s in statuses] == [40] * 3
    busy = [sum(s.state in ("starting", "training", "restarting") for s in view) for view in seen]
    assert max(busy) == 1


def test_an_error_ends_its_student_alone(tmp_path: Path) -> None:
    def diverge(nimg: int) -> None:
        if nimg == 20:
            raise TrainingError("the gradient is not finite")

    statuses, _ = drive(works(tmp_path, {1: diverge}))
    assert [s.state for s in statuses] == ["done", "failed", "done"]
    assert statuses[1].error == "the gradient is not finite"


def test_an_unforeseen_error_is_one_line(tmp_path: Path) -> None:
    def stumble(nimg: int) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    statuses, _ = drive(works(tmp_path, {0: stumble}, n=1))
    assert statuses[0].error == "ZeroDivisionError: first line second line"


def test_one_that_dies_is_replaced_until_it_makes_no_progress(tmp_path: Path) -> None:
    def die_once_at_20(nimg: int) -> None:
        marker = tmp_path / "died"
        if nimg == 20 and not marker.exists():
            marker.touch()
            os._exit(1)

    def die_for_ever_at_10(nimg: int) -> None:
        if nimg == 10:
            os._exit(1)

    statuses, _ = drive(works(tmp_path, {0: die_once_at_20, 1: die_for_ever_at_10}))
    assert [s.state for s in statuses] == ["done", "failed", "done"]
    assert (statuses[0].restarts, statuses[0].failures) == (1, 0)
    assert statuses[1].restarts == 3
    assert "died 3 times in a row" in statuses[1].error
