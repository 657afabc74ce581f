"""Writes checkpoints in a thread while training goes on."""

import threading

import torch

from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.device import free_memory
from msd_ray.training.state import State, Tensors

_HOST = torch.device("cpu")
SPARE = 1.2
"""Free memory for a copy of the state, in states."""


class Saver:
    """Writes one checkpoint at a time, in a thread and from a copy of the state in the host's memory.

    Until it is whole the checkpoint before counts. So call `finish` before you report that a trainer has ended, or give
    it to another process.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written. If the last one failed, its error is raised."""
        if self._thread and not self._thread.is_alive():
            self.finish()
        return self._thread is not None

    def begin(self, state: State) -> None:
        """Waits for the checkpoint before, copies the state and begins to write the copy. If the host has no memory for
        a copy, it writes the state itself and returns when that is done. Raises the errors of both checkpoints."""
        self.finish()
        if not state.copied and free_memory(_HOST) < SPARE * state.bytes:
            self.checkpoints.save(state)
            return
        tensors = state.tensors if state.copied else {name: _copied(of_one) for name, of_one in state.tensors.items()}
        copy = State(tensors, state.meta)
        self._thread = threading.Thread(target=self._write, args=(copy,), name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Waits until the checkpoint is whole. Raises its error: UserError if the store could not be written to."""
        if self._thread:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error:
            raise error

    def _write(self, state: State) -> None:
        try:
            self.checkpoints.save(state)
        except BaseException as error:
            self._error = error


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().to(_HOST, copy=True) for name, tensor in tensors.items()}
