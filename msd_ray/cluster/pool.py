"""The teacher pool: stateless actors that hold the teacher, and the differentiable stand-in that students ask."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.actor import ActorHandle
from torch import Tensor

from msd_ray.cluster.device import prepare_device
from msd_ray.diffusion import EDMDenoiser
from msd_ray.runs.pairs import make_part
from msd_ray.runs.plan import Plan
from msd_ray.runs.teacher import load_teacher
from msd_ray.storage import Store
from msd_ray.teachers import Answer

Array = NDArray[Any]


@dataclass(frozen=True)
class Reply:
    """array: x0 or a vector-Jacobian product, [B, ...]. cpu_seconds: what it cost the teacher's process."""

    array: Array
    cpu_seconds: float


class TeacherActor:
    """One replica of the teacher. Stateless: any replica answers any request, and the same request the same way.

    Each request is one forward pass of its own, so that no answer depends on what else was asked.
    """

    def __init__(self, teacher: Store, precision: str, gpus: float) -> None:
        """teacher: the folder it is kept in, on storage that all nodes share."""
        self._teacher, self._precision, self._gpus = teacher, precision, gpus

    @cached_property
    def device(self) -> torch.device:
        return prepare_device(self._gpus, threads=1)

    @cached_property
    def denoiser(self) -> EDMDenoiser:
        # Loaded by the first request, so that an error reaches the student that asked; one in __init__ would not.
        return load_teacher(self._teacher, self._precision).to(self.device)

    def denoise(self, x_t: Array, sigma: Array, condition: Array) -> Reply:
        """x0 [B, ...] for x_t [B, ...] at sigma [B] under condition [B] or [B, D]."""
        start = time.process_time()
        with torch.no_grad():
            x0 = self.denoiser(self._tensor(x_t), self._tensor(sigma), self._tensor(condition))
        return Reply(x0.cpu().numpy(), time.process_time() - start)

    def vjp(self, x_t: Array, sigma: Array, condition: Array, cotangent: Array) -> Reply:
        """cotangent [B, ...] times the Jacobian of x0 in x_t; the forward pass is done again here."""
        start = time.process_time()
        x = self._tensor(x_t).requires_grad_()
        with torch.enable_grad():
            x0 = self.denoiser(x, self._tensor(sigma), self._tensor(condition))
            (gradient,) = torch.autograd.grad(x0, x, self._tensor(cotangent))
        return Reply(gradient.cpu().numpy(), time.process_time() - start)

    def make_pairs(self, folder: Store, part: int, plan: Plan) -> None:
        """Samples and writes one part of the pairs that `plan` asks for."""
        make_part(folder, part, self.denoiser, self.device, plan)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)  # a copy: arrays that Ray hands over are read-only


def start_pool(size: int, cpus: float, gpus: float, teacher: Store, precision: str) -> list[ActorHandle[Any]]:
    """`size` teacher actors. One that dies is started anew by Ray and its requests are sent again, without limit."""
    actor: Any = ray.remote(TeacherActor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)
    return [actor.remote(teacher, precision, gpus) for _ in range(size)]


def stop_pool(actors: list[ActorHandle[Any]]) -> None:
    """Ends the actors and frees what they hold."""
    for actor in actors:
        ray.kill(actor)


class TeacherPool:
    """A denoiser whose calls run in a pool. Where x_t requires a gradient, backward asks the pool for the
    vector-Jacobian product of the same call, so an objective cannot tell it from a local teacher.

    Requests go straight from here to the teacher actors, in turn. cpu_seconds: what they cost the pool so far.
    """

    def __init__(self, actors: list[ActorHandle[Any]], first: int = 0) -> None:
        """first: the actor to begin with, so that many students do not all begin with the same one."""
        self._actors, self._next = actors, first
        self.cpu_seconds = 0.0

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.submit(x_t, sigma, condition).result()

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        """Sends the request and returns at once."""
        return _Pending(self, x_t, sigma, condition, self.ask("denoise", x_t, sigma, condition))

    def ask(self, method: str, *tensors: Tensor) -> Any:
        """Sends one request to the next actor; returns Ray's reference to the Reply."""
        actor = self._actors[self._next % len(self._actors)]
        self._next += 1
        return getattr(actor, method).remote(*(t.detach().cpu().numpy() for t in tensors))

    def collect(self, reference: Any, like: Tensor) -> Tensor:
        """The tensor of a Reply, on the device and in the type of `like`; waits for it."""
        reply: Reply = ray.get(reference)
        self.cpu_seconds += reply.cpu_seconds
        return torch.from_numpy(reply.array.copy()).to(like)


@dataclass(frozen=True)
class _Pending:
    pool: TeacherPool
    x_t: Tensor
    sigma: Tensor
    condition: Tensor
    reference: Any

    def result(self) -> Tensor:
        x0: Tensor = _Remote.apply(self.x_t, self)  # type: ignore[no-untyped-call]
        return x0


class _Remote(torch.autograd.Function):
    """The teacher as a function of x_t, computed elsewhere both ways."""

    @staticmethod
    def forward(ctx: Any, x_t: Tensor, pending: _Pending) -> Tensor:
        ctx.pending = pending
        return pending.pool.collect(pending.reference, x_t)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        p: _Pending = ctx.pending
        reference = p.pool.ask("vjp", p.x_t, p.sigma, p.condition, cotangent)
        return p.pool.collect(reference, cotangent), None
