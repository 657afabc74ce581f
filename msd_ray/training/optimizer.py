"""Optimizer steps: gradients over shards, clipping, and skipped updates."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from msd_ray.objectives import Loss, Optimization
from msd_ray.training.adam import Adam
from msd_ray.training.optimizer_state import StateKind
from msd_ray.training.pieces import clip_pieces, here, is_divided
from msd_ray.training.process_group import ProcessGroup
from msd_ray.training.state import Tensors

WAITS = ("cpu", "meta")
"""The devices that have computed what was asked of them when the call returns. Reading a number costs nothing there."""


class OptimizerStep:
    """An optimizer on some of a student's weights, with a gradient gathered over the shards of a batch."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        lr: float,
        how: Optimization,
        clip_value: float,
        shards: int,
        group: ProcessGroup,
        state: StateKind = "fp32",
    ) -> None:
        """parameters: the group's processes may keep a piece of each. clip_value: largest absolute value of an element
        of the gradient; 0: any."""
        self.parameters, self._lr, self._shards, self._group = parameters, lr, shards, group
        self._clip, self._clip_value = how.clip or math.inf, clip_value
        self._own: list[nn.Parameter] = [here(p) if is_divided(p) else p for p in parameters]  # type: ignore[misc]
        self.optimizer = Adam(self._own, lr, how.optimizer, how.betas, how.weight_decay, state)

    def step(self, losses: Iterable[Loss], warm: float) -> tuple[list[Tensors], bool | Tensor]:
        """One step down the mean over all shards, at `warm` times the learning rate.

        losses: of this process's shards, computed lazily. Returns their parts and whether the gradient is finite: the
        weights otherwise stay as they are. On a GPU that is a tensor, for which nothing waits. It is the same in all
        processes. Afterwards the gradient is freed, so that a student never holds those of both its optimizers.
        """
        parts = [self._add(loss) for loss in losses]
        self._group.sum([p.grad for p in self.parameters if p.grad is not None and not is_divided(p)])
        norm = self._clipped()
        finite: bool | Tensor = torch.isfinite(norm)
        if norm.device.type in WAITS or not self.optimizer.can_stay:
            finite = bool(finite)
        if finite is not False:
            self._move(self._lr * warm, finite if isinstance(finite, Tensor) else None)
        self._forget_gradients()
        return parts, finite

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """In this block, gradients pass through these weights but are not computed for them."""
        for p in self.parameters:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in self.parameters:
                p.requires_grad_(True)

    def _clipped(self) -> Tensor:
        """The gradient's norm [], before it was clipped. Afterwards each process has the gradient of what it moves."""
        if not any(map(is_divided, self.parameters)):
            return nn.utils.clip_grad_norm_(self.parameters, self._clip)
        norm = clip_pieces([p.grad for p in self.parameters if p.grad is not None], self._clip, self._group)
        for own, p in zip(self._own, self.parameters, strict=True):
            own.grad = None if p.grad is None else here(p.grad)
        return norm

    def _forget_gradients(self) -> None:
        self.optimizer.zero_grad()
        for p in self.parameters:
            p.grad = None

    def _move(self, lr: float, finite: Tensor | None) -> None:
        if self._clip_value:
            nn.utils.clip_grad_value_(self._own, self._clip_value)
        self.optimizer.lr = lr
        self.optimizer.step(finite)

    def _add(self, loss: Loss) -> Tensors:
        """One shard's part of the mean's gradient."""
        (loss.total / self._shards).backward()  # type: ignore[no-untyped-call]
        return loss.parts
