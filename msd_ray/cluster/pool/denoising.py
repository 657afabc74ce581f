"""The maths of a teacher's replica: x0 and vector-Jacobian products, of one request or of several at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from msd_ray.cluster.pool.batching import Reply, Request
from msd_ray.cluster.pool.wire import is_half, pack, pack_half, unpack
from msd_ray.diffusion import Denoiser
from msd_ray.training.device import prepare_device

Outcome = Reply | Exception


@dataclass(frozen=True)
class BatchDenoiser:
    """Computes a teacher's answers, in one thread. load: loads the teacher onto a device."""

    load: Callable[[torch.device], Denoiser]
    gpus: float

    @cached_property
    def device(self) -> torch.device:
        return prepare_device(self.gpus, threads=1)

    @cached_property
    def denoiser(self) -> Denoiser:
        # Loaded by the first request, so that an error reaches the student that asked; one in __init__ would not.
        return self.load(self.device)

    def outcomes(self, batch: list[Request]) -> list[Outcome]:
        """The replies to requests of one form, from one forward pass. If that fails each request gets a pass of its
        own, so that an error reaches only the student whose request caused it."""
        try:
            return [*self._replies(batch)]
        except Exception as error:
            return [error] if len(batch) == 1 else [outcome for r in batch for outcome in self.outcomes([r])]

    def _replies(self, batch: list[Request]) -> list[Reply]:
        """One forward pass for all; its CPU time is divided in proportion to samples."""
        answer = _vjp if batch[0].kind == "vjp" else _denoise
        denoiser, start = self.denoiser, time.thread_time()  # loading does not count as a request's cost
        columns = zip(*(r.arrays for r in batch), strict=True)
        tensors = [unpack(np.concatenate(c) if len(c) > 1 else c[0]).to(self.device) for c in columns]
        packed = (pack_half if is_half(batch[0].arrays[0]) else pack)(answer(denoiser, *tensors))
        sizes = [r.samples for r in batch]
        arrays = np.split(packed, np.cumsum(sizes)[:-1])
        seconds = (time.thread_time() - start) / sum(sizes)
        return [Reply(array, seconds * n) for array, n in zip(arrays, sizes, strict=True)]


def _denoise(denoiser: Denoiser, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """x0 [B, ...] for x_t [B, ...] at sigma [B] under condition [B] or [B, D]."""
    with torch.no_grad():
        return denoiser(x_t, sigma, condition)


def _vjp(denoiser: Denoiser, x_t: Tensor, sigma: Tensor, condition: Tensor, cotangent: Tensor) -> Tensor:
    """cotangent [B, ...] times the Jacobian of x0 in x_t; the forward pass is done again here."""
    x_t.requires_grad_()
    with torch.enable_grad():
        x0 = denoiser(x_t, sigma, condition)
    product: Tensor = torch.autograd.grad(x0, x_t, cotangent)[0]
    return product
