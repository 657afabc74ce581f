"""What is timed of a plan. The clocks here stand still unless somebody works."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.profiling.clocks import Clock, ClockedTeacher
from msd_ray.profiling.plan_times import _at_once, median_of, time_plan
from msd_ray.profiling.step_times import try_out
from msd_ray.profiling.timing import StageTiming, Timing
from msd_ray.runs.run_context import RunContext

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")


def context(*overrides: str) -> RunContext:
    return RunContext.of(TINY, ["partition.kind=sequential", *overrides], None)


class Ticks:
    """A clock that somebody has to move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A denoiser that takes three ticks."""

    def __init__(self, clock: Ticks) -> None:
        self.clock = clock

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        self.clock.now += 3
        return x_t**2


def asked(clock: Any) -> tuple[ClockedTeacher, Tensor, tuple[Tensor, Tensor]]:
    teacher: Any = Slow(clock)
    x = torch.tensor([[2.0], [5.0]], requires_grad=True)
    return ClockedTeacher(teacher, clock), x, (torch.ones(2), torch.zeros(2, dtype=torch.long))


def test_a_student_waits_for_what_its_own_computing_does_not_hide() -> None:
    clock = Ticks()
    teacher, x, rest = asked(clock)
    answer = teacher.submit(x.detach(), *rest)
    clock.now += 2
    answer.result()
    assert (teacher.seconds, teacher.waits) == (3, 1)
    answer = teacher.submit(x.detach(), *rest)
    clock.now += 4
    answer.result()
    assert (teacher.seconds, teacher.waits) == (6, 1)
    teacher.reset()
    assert (teacher.seconds, teacher.waits) == (0, 0)


def test_nothing_hides_the_gradient() -> None:
    clock = Ticks()
    teacher, x, rest = asked(clock)
    answer = teacher.submit(x, *rest)
    clock.now += 9
    answer.result().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[4.0], [10.0]]
    assert (teacher.seconds, teacher.waits) == (6, 3)


def test_threads_share_the_seconds_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.process_time", lambda: 12.0)
    assert Clock(torch.device("cpu"), threads=1)() == 12.0
    assert Clock(torch.device("cpu"), threads=4)() == 3.0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    """CPU seconds that only pass while a denoiser is evaluated, one for each sample. What a trial sets in its process
    is undone."""
    clock, evaluate = Ticks(), EDMDenoiser.forward

    def forward(self: EDMDenoiser, x_t: Tensor, *rest: Tensor) -> Tensor:
        clock.now += len(x_t)
        return evaluate(self, x_t, *rest)

    monkeypatch.setattr(EDMDenoiser, "forward", forward)
    monkeypatch.setattr("time.process_time", clock)
    yield clock
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


def stages(objective: str) -> str:
    return f"stages={{only: {{objective: {objective}, images: 160, batch: 16, fake_steps: 2, fake_first: 32}}}}"


def test_evaluations_per_image_are_counted_by_who_makes_them(counted: Ticks) -> None:
    """Per image: one sample of the generator and one answer of teacher and fake score; two of the first and the last
    for the fake score's steps. `fake_first` is left out: it is the rest of the stage that takes the time."""
    found = try_out(context(stages("dm")).plan, gpus=0.0)
    assert found.stages == {"only": StageTiming(own=1 + 1 + 2 * 2, teacher=1, waits=0)}
    assert found.answer == 1
    assert found.segment == 16  # the probe's samples
    assert (found.teacher, found.device) == (1, "cpu")


def test_a_gradient_through_the_teacher_is_two_more_evaluations_that_are_waited_for(counted: Ticks) -> None:
    """Evaluated again for its gradient, as a replica does; the backward pass itself moves no clock here."""
    found = try_out(context(stages("sid")).plan, gpus=0.0).stages["only"]
    assert (found.teacher, found.waits) == (2, 1)


def test_a_second_question_is_a_second_answer(counted: Ticks) -> None:
    """Beside them the generator and its target are evaluated."""
    found = try_out(context(stages("consistency")).plan, gpus=0.0).stages["only"]
    assert (found.own, found.teacher) == (2, 2)


def test_a_teacher_in_the_student_is_part_of_its_own_seconds(counted: Ticks) -> None:
    found = try_out(context(stages("dm"), "cluster.teacher=local").plan, gpus=0.0)
    assert found.stages == {"only": StageTiming(own=1 + 1 + 1 + 2 * 2)}


def test_nothing_is_probed_where_a_denoiser_is_made(counted: Ticks) -> None:
    assert try_out(context(stages("o2mkd")).plan, gpus=0.0).segment == 0


def test_medians_of_each_piece() -> None:
    def timing(own: float, start: float) -> Timing:
        return Timing("cpu", {"dm": StageTiming(own, 2 * own, 3 * own)}, 1.0, 1.0, 1.0, 1.0, start)

    found = median_of([timing(1.0, 9.0), timing(5.0, 1.0), timing(3.0, 2.0)])
    assert found == timing(3.0, 2.0)


def test_a_network_that_is_too_large_for_a_cpu_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert time_plan(context("network.width=4096").plan) is None
    assert time_plan(context("network.width=4096", "student.channel_factor=0.01").plan) is None  # the teacher is


@pytest.mark.parametrize(
    ("overrides", "cpus", "expected"),
    [
        ([], 1, 2),
        (["partition.k=4"], 1, 2),
        (["partition.k=4"], 2, 4),
        (["partition.k=4", "cluster.cpus_per_student=1"], 2, 2),
        (["partition.k=4", "cluster.max_slots=3"], 2, 3),
        (["cluster.cpus_per_student=3"], 2, 1),
    ],
)
def test_as_many_students_are_tried_at_once_as_will_train_at_once(
    overrides: list[str], cpus: int, expected: int
) -> None:
    assert _at_once(context(*overrides).plan, cpus) == expected


def test_a_plan_is_timed_in_processes_of_its_own() -> None:
    threads = torch.get_num_threads()
    found = time_plan(context().plan)
    assert found
    assert list(found.stages) == ["dm", "adm"]
    assert min(found.open, found.segment, found.teacher, found.answer, found.start) > 0
    assert min(s.own for s in found.stages.values()) > 0
    assert torch.get_num_threads() == threads
