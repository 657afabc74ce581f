"""A student whose thread does not answer, or fails, is found, tried again and given up."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service import pulse
from msd_ray.serving.service.batcher import Batcher
from msd_ray.serving.service.batching import Batching
from msd_ray.serving.service.pulse import FAILURES, Pulse


class Student:
    """Makes images, fails, or hangs."""

    def __init__(self) -> None:
        self.fails, self.go_on, self.made = False, threading.Event(), 0
        self.go_on.set()

    def position_of(self, sample_id: Any) -> int:
        return 0

    def evaluate(self, sample_ids: Any, positions: Any, size: int) -> torch.Tensor:
        assert self.go_on.wait(20)
        if self.fails:
            raise RuntimeError("CUDA error")
        self.made += len(sample_ids)
        return torch.zeros(size, 1)


def run(test: Callable[[Student, Batcher, Pulse], Awaitable[None]]) -> None:
    async def whole() -> None:
        student = Student()
        with ThreadPoolExecutor(1) as thread:
            found = Pulse(lambda: batcher.make([(0, 0)], 20))
            batcher = Batcher(student, Batching("batched", (1, 2)), thread, 8, 0, 0.0, found.watch)
            try:
                await test(student, batcher, found)
            finally:
                student.go_on.set()

    asyncio.run(asyncio.wait_for(whole(), 30))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_an_idle_student_makes_an_image_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(student: Student, batcher: Batcher, found: Pulse) -> None:
        assert found.why() == ""
        assert student.made == 0  # it began a moment ago
        monkeypatch.setattr(pulse, "IDLE", 0.0)
        assert found.why() == ""
        await until(lambda: student.made == 1)

    run(test)


def test_one_that_fails_says_so_until_it_makes_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(student: Student, batcher: Batcher, found: Pulse) -> None:
        student.fails = True
        with pytest.raises(Refusal, match="the student failed"):
            await batcher.make([(1, 1)], 20)
        assert found.why() == "its last evaluation failed"
        assert not found.lost
        student.fails = False
        await until(lambda: found.why() == "")
        assert student.made >= 1

    run(test)


def test_failures_in_a_row_are_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(student: Student, batcher: Batcher, found: Pulse) -> None:
        student.fails = True
        for i in range(FAILURES):
            assert not found.lost, i
            with pytest.raises(Refusal):
                await batcher.make([(1, 1)], 20)
        assert found.lost

    run(test)


def test_one_that_hangs_is_found_while_callers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(student: Student, batcher: Batcher, found: Pulse) -> None:
        await batcher.make([(1, 1)], 20)
        student.go_on.clear()
        waiting = asyncio.create_task(batcher.make([(1, 1)], 20))
        await asyncio.sleep(0.05)
        assert found.why() == ""  # it may be slow
        assert not found.lost
        monkeypatch.setattr(pulse, "LONGEST", 0.01)
        monkeypatch.setattr(pulse, "TIMES", 0.0)
        assert "an evaluation has not ended for" in found.why()
        assert found.lost
        student.go_on.set()
        await waiting
        assert found.why() == ""
        assert not found.lost

    run(test)
