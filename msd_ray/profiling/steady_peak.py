"""The most memory that training holds once it is under way, foreseen from its first update."""

from msd_ray.profiling.tally import Tally, nbytes_in
from msd_ray.training.adam import Adam


class SteadyPeak:
    """Follows an update from one step of an optimizer to the next.

    After the first update of a stage others hold more: the averages of all optimizers from the beginning.
    """

    def __init__(self, tally: Tally, first: bool = True) -> None:
        """first: whether it is the first."""
        self._tally, self._first = tally, first
        self._before: list[tuple[int, int]] = []
        self._optimizers: dict[int, Adam] = {}
        tally.peak = tally.held

    def __enter__(self) -> "SteadyPeak":
        Adam.before_step.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        Adam.before_step.remove(self._note)

    def bytes(self) -> int:
        averages = self._averages() if self._first else 0
        return max(self._tally.peak, *(peak + averages - had for peak, had in self._before))

    def _note(self, optimizer: Adam) -> None:
        self._optimizers[id(optimizer)] = optimizer
        self._before.append((self._tally.peak, self._averages() if self._first else 0))
        self._tally.peak = self._tally.held

    def _averages(self) -> int:
        return sum(nbytes_in(o.on_device()) for o in self._optimizers.values())
