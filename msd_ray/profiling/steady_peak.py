"""The most memory that training holds once it is under way, foreseen from its first update."""

from msd_ray.profiling.tally import Tally, nbytes_in
from msd_ray.training.adam import Adam


class SteadyPeak:
    """Follows the first update of a stage from one step of an optimizer to the next.

    Later updates hold more: the averages of all optimizers from the beginning, and each optimizer's last gradient until
    its turn comes, which for the generator's is the last of an update.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._before: list[tuple[int, int]] = []
        self._optimizers: dict[int, Adam] = {}
        tally.peak = tally.held

    def __enter__(self) -> "SteadyPeak":
        Adam.before_step.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        Adam.before_step.remove(self._note)

    def bytes(self) -> int:
        """At most; where the first step is when most is held, it may be by a gradient less."""
        averages, last = self._averages(), len(self._before) - 1
        gradients = [nbytes_in(o.parameters) for o in self._optimizers.values()]
        old = [sum(gradients) if i == 0 < last else gradients[-1] if i < last else 0 for i in range(last + 1)]
        later = [peak + averages - had + kept for (peak, had), kept in zip(self._before, old, strict=True)]
        return max(self._tally.peak, *later)

    def _note(self, optimizer: Adam) -> None:
        self._optimizers[id(optimizer)] = optimizer
        self._before.append((self._tally.peak, self._averages()))
        self._tally.peak = self._tally.held

    def _averages(self) -> int:
        return sum(nbytes_in(o.tensors()) for o in self._optimizers.values())
