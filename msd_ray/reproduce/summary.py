"""Values over seeds: their mean and spread."""

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """values: one per seed, those that are known."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def sd(self) -> float:
        """The standard deviation over seeds; nan for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    def __str__(self) -> str:
        if not self.values:
            return "-"
        return f"{self.mean:.4g}" + (f" ± {self.sd:.2g}" if len(self.values) > 1 and self.sd else "")


def summary(values: list[float | None]) -> Summary:
    return Summary(tuple(float(v) for v in values if v is not None and math.isfinite(v)))
