"""What optimizers are given: a trainer frees its gradients once it has moved the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from msd_ray.training.adam import Adam

Gradients = Callable[[nn.Module], list[Tensor]]


@contextmanager
def last_gradients() -> Iterator[Gradients]:
    """The gradients of a network's weights at the last step in this block of an optimizer that moves them."""
    seen: dict[int, Tensor] = {}

    def note(optimizer: Adam) -> None:
        seen.update({id(p): p.grad for p in optimizer.parameters if p.grad is not None})

    Adam.before_step.append(note)
    try:
        yield lambda network: [seen[id(p)] for p in network.parameters() if id(p) in seen]
    finally:
        Adam.before_step.remove(note)
