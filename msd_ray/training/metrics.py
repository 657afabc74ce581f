"""What a trainer reports of itself."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """One value on a curve. nimg: images seen when it was taken."""

    stage: str
    nimg: int
    name: str
    value: float


class Averages:
    """Running means of named scalars between two log points; kept as tensors, so that nothing waits for a GPU."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, parts: dict[str, Tensor]) -> None:
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, stage: str, nimg: int) -> list[Metric]:
        """The means since the last call, which also forgets them."""
        rows = [Metric(stage, nimg, name, float(total) / self._counts[name]) for name, total in self._sums.items()]
        self.__init__()  # type: ignore[misc]
        return rows
