"""The definition of a sweep, as a user writes it."""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from msd_ray.errors import UserError
from msd_ray.ranges import Amount, Count, CountOrNone, Images, Seed
from msd_ray.recipes.yaml_files import read_yaml, validated
from msd_ray.sweep.trial_metrics import COLUMNS, METRICS, Mode

Hours = Annotated[float, Field(gt=0, le=1e9)]


@dataclass(frozen=True)
class Budget:
    """Limits after which no further trial begins; running trials are finished. None for no limit.

    trials: how many. images: that all generators of all trials saw. gpu_hours: that students held GPUs. hours: elapsed,
    in all starts of the command together.
    """

    trials: Count | None = None
    images: Images | None = None
    gpu_hours: Hours | None = None
    hours: Hours | None = None


@dataclass(frozen=True)
class SearcherConfig:
    """How trials are chosen. grid: every combination, the last dimension fastest. random: seeded draws, none twice
    while there are others. optuna: TPE on the sweep's metrics, one or several."""

    kind: Literal["grid", "random", "optuna"] = "grid"
    seed: Seed = 0


@dataclass(frozen=True)
class SchedulerConfig:
    """Which trials are stopped early, by `metric`, at reports after fixed numbers of images per student.

    asha: at `first`, first x factor, first x factor^2, ... images the best 1 / factor go on (arXiv 1810.05934).
    median: every `first` images; a trial whose best is worse than the median of the others' averages is stopped, once
    three others have reached as many images. none: all are trained to their end and report once.
    """

    kind: Literal["none", "asha", "median"] = "none"
    metric: str = "fid"
    first: Images = 1_000
    factor: Annotated[int, Field(ge=2, le=1000)] = 4

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"no trial reports {self.metric}, only {', '.join(METRICS)}")


@dataclass(frozen=True)
class Trials:
    """How trials are run. concurrent: how many at a time.

    slots: students of a trial that train at a time; None for an equal share of the cluster's room. queue: whether
    students may take turns if there are more of them than slots; if not, all students of a trial must fit. cpus, gpus:
    Ray resources of a trial's own process, which measures and does not train. max_failures: deaths of that process
    after which only the next start of the command tries the trial again.
    """

    concurrent: Count = 1
    slots: Count | None = None
    queue: bool = True
    cpus: Amount = 0.0
    gpus: Amount = 0.0
    max_failures: CountOrNone = 3


@dataclass(frozen=True)
class Definition:
    """One sweep. recipe: what all trials have in common, a shipped recipe or a file; overrides: by path, on top of it.
    space: what differs (`msd_ray.sweep.search_space`). metrics: what the front is of, each min or max. keep: whose
    ensembles stay: of the trials on the front, of the best by the first metric alone, or of all.
    """

    name: str
    recipe: str
    space: dict[str, Any]
    metrics: dict[str, Mode]
    overrides: dict[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    searcher: SearcherConfig = field(default_factory=SearcherConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    trials: Trials = field(default_factory=Trials)
    keep: Literal["front", "best", "all"] = "front"

    def __post_init__(self) -> None:
        if taken := sorted(COLUMNS & {*self.space}):
            raise ValueError(f"space.{taken[0]}: results have a column of that name already; choose another")
        if not self.metrics:
            raise ValueError("metrics must name at least one")
        for metric in self.metrics:
            if metric not in METRICS:
                raise ValueError(f"no trial reports {metric}, only {', '.join(METRICS)}")
        if self.searcher.kind != "grid" and self.budget.trials is None:
            raise ValueError(f"budget.trials must say how many trials a {self.searcher.kind} search takes")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_definition(path: str) -> Definition:
    """The definition in a YAML file. Raises UserError, in one line, if there is none, a key is unknown or a value is
    wrong."""
    if not os.path.isfile(path):
        raise UserError(f"no file {path}: give a sweep's definition, such as tune_configs/digits-quick.yaml")
    return parse_definition(path, read_yaml(path))


def parse_definition(name: str, raw: dict[str, Any]) -> Definition:
    """A definition from plain data; error messages call it `name`. Raises UserError as `load_definition`."""
    return validated(Definition, name, raw)
