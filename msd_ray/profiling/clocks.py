"""Clocks for what a machine can do: of the CPU where it computes, since others inflate the time on the wall, and of the
wall where a GPU does."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from msd_ray.diffusion import Denoiser
from msd_ray.teachers import Answer


class Clock:
    """Seconds that a device was at work for this process. threads: torch's, which share the work on a CPU."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads

    def __call__(self) -> float:
        """On a CPU its seconds over all threads, divided by their number: the wall time of a process that has as many
        CPUs as threads, all of them busy."""
        if self.device.type == "cpu":
            return time.process_time() / self.threads
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def of(self, act: Callable[[], object]) -> float:
        """The seconds that it takes."""
        begin = self()
        act()
        return self() - begin


class ClockedTeacher:
    """A teacher beside the student that computes what a pool would, and keeps the time.

    seconds: that its answers took. waits: of these, those that a student would have waited for a pool that has nothing
    else to do, since it had nothing of its own to compute meanwhile. Both are since `reset`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        clock: Callable[[], float],
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """around: entered for each of the teacher's own passes."""
        self._denoiser, self._clock, self._around = denoiser, clock, around
        self.reset()

    def reset(self) -> None:
        self.seconds = self.waits = 0.0

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        before = self.seconds
        x0: Tensor = _Apart.apply(x_t, sigma, condition, self)  # type: ignore[no-untyped-call]
        return _Clocked(self, x0, self.seconds - before, self._clock())

    def denoise(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        begin = self._clock()
        with torch.no_grad(), self._around():
            x0: Tensor = self._denoiser(x_t, sigma, condition)
        self.seconds += self._clock() - begin
        return x0

    def vjp(self, x_t: Tensor, sigma: Tensor, condition: Tensor, cotangent: Tensor) -> Tensor:
        """The forward pass is done again, as a pool does, and nothing hides it."""
        begin = self._clock()
        x_t = x_t.detach().requires_grad_()
        with torch.enable_grad(), self._around():
            x0 = self._denoiser(x_t, sigma, condition)
            product: Tensor = torch.autograd.grad(x0, x_t, cotangent)[0]
        seconds = self._clock() - begin
        self.seconds += seconds
        self.waits += seconds
        return product

    def read(self, seconds: float, submitted: float) -> None:
        """An answer that took so long to compute was asked for at `submitted`, and is read now."""
        self.waits += max(0.0, seconds - (self._clock() - submitted))


class _Clocked:
    def __init__(self, teacher: ClockedTeacher, x0: Tensor, seconds: float, submitted: float) -> None:
        self._teacher, self._x0, self._seconds, self._submitted = teacher, x0, seconds, submitted

    def result(self) -> Tensor:
        self._teacher.read(self._seconds, self._submitted)
        return self._x0


class _Apart(torch.autograd.Function):
    """The teacher as a function of x_t whose forward and backward passes are timed, and share nothing."""

    @staticmethod
    def forward(ctx: Any, x_t: Tensor, sigma: Tensor, condition: Tensor, teacher: ClockedTeacher) -> Tensor:
        ctx.asked = teacher, x_t, sigma, condition
        return teacher.denoise(x_t, sigma, condition)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        teacher, x_t, sigma, condition = ctx.asked
        return teacher.vjp(x_t, sigma, condition, cotangent), None, None, None
