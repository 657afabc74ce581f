"""What an experiment is: arms that differ in one thing, a claim about them, and what would make it true."""

import math
import statistics
from collections.abc import Callable, Mapping
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


Summaries = Mapping[str, Mapping[str, Summary]]
"""arm -> column -> its values over the seeds; an arm named "teacher" is there beside those of the experiment."""


@dataclass(frozen=True)
class Arm:
    """One configuration. name: in the table. x: its place on the plot. line: which line of the plot it belongs to.
    most: how many of the seeds it runs with, the first ones; all if None."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    x: float = 0.0
    line: str = ""
    most: int | None = None


@dataclass(frozen=True)
class Claim:
    """text: what a paper says, with its source. holds: whether our figures say the same, and these figures in words."""

    text: str
    holds: Callable[[Summaries], tuple[bool, str]]


@dataclass(frozen=True)
class Experiment:
    """columns: of the table, the first also on the plot. x: what the plot's horizontal axis is; bars where empty."""

    name: str
    title: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    columns: tuple[str, ...] = ("fid", "kid", "precision", "recall", "agreement", "images", "cpu_seconds")
    x: str = ""


def falls(column: str, arms: list[str]) -> Callable[[Summaries], tuple[bool, str]]:
    """Holds where the mean of `column` is lower in the last of `arms` than in the first."""

    def check(found: Summaries) -> tuple[bool, str]:
        means = [found[arm][column].mean for arm in arms]
        return means[-1] < means[0], f"{column}: " + ", ".join(
            f"{m:.4g} ({a})" for a, m in zip(arms, means, strict=True)
        )

    return check


def below(column: str, arm: str, other: str, factor: float = 1.0) -> Callable[[Summaries], tuple[bool, str]]:
    """Holds where the mean of `column` in `arm` is below `factor` times that in `other`."""

    def check(found: Summaries) -> tuple[bool, str]:
        ours, theirs = found[arm][column].mean, found[other][column].mean
        return ours < factor * theirs, f"{column}: {ours:.4g} ({arm}) against {theirs:.4g} ({other})"

    return check


def every(column: str, arms: list[str], other: str, factor: float) -> Callable[[Summaries], tuple[bool, str]]:
    """Holds where the mean of `column` is at most `factor` times that in `other` for each of `arms`."""

    def check(found: Summaries) -> tuple[bool, str]:
        limit = found[other][column].mean
        ratios = {arm: found[arm][column].mean / limit for arm in arms}
        said = ", ".join(f"{ratio:.2f} ({arm})" for arm, ratio in ratios.items())
        return all(ratio <= factor for ratio in ratios.values()), f"{column} over that of {other}: {said}"

    return check
