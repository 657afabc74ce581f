"""Definitions, reports and records for the tests of sweeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from msd_ray.sweep.definition import parse_definition
from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.sweep_journal import TrialRecord
from msd_ray.sweep.trial_metrics import Report

RECIPE = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
DM = {
    "objective": "dm", "images": 320, "batch": 16, "fake_steps": 1, "generator_lr": 1e-3, "fake_lr": 1e-3, "warmup": 160
}  # fmt: skip
TSM = {"objective": "tsm", "images": 160, "batch": 16, "generator_lr": 1e-3, "warmup": 0, "shared": False}
SAID: dict[str, Any] = {
    "name": "tiny",
    "recipe": RECIPE,
    "overrides": {"partition.kind": "sequential", "stages": {"dm": DM}},
    "space": {"partition.k": [1, 2, 4], "size": {"half": {"student.channel_factor": 0.5}, "full": {}}},
    "metrics": {"fid": "min", "latency_ms": "min"},
}


def recipe_space(**changes: Any) -> RecipeSpace:
    """Of the tiny sweep with other values."""
    return RecipeSpace.of(parse_definition("tiny", SAID | changes))


BLANK = Report(
    images=320, final=True, students=1, samples=64, fid=1.0, kid=0.0, precision=0.5, recall=0.5, agreement=None,
    latency_ms=1.0, batch_latency_ms=0.1, parameters=100, active_parameters=100, nfe=1, total_images=320, flops=1e6,
    cpu_seconds=1.0, gpu_seconds=0.0,
)  # fmt: skip


def record(number: int, state: Any = "done", **figures: Any) -> TrialRecord:
    return TrialRecord(number, {"partition.k": number}, [replace(BLANK, **figures)], state)


class Notes:
    """A Listener that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def watch(self, statuses: list[object]) -> None:
        """Not asked."""
