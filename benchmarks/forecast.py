"""What `msd-ray plan` predicts of a run on this machine, against the run.

The steps are measured and the run is forecast first; then the same plan is trained from its teacher on, on a local Ray
cluster, through `msd_ray.cluster.train.train`. The features that students are probed with are made before either. To be
run on a machine that does nothing else: the forecast supposes that.

    python benchmarks/forecast.py [--recipe digits] [KEY=VALUE ...] [--quick]

The last line of standard output is one JSON object. Ratios are predicted over measured: of the wall time of the whole
run, and of each student's images/s while it holds a slot.
"""

import argparse
import os
import tempfile
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common import finish, say, spread

from msd_ray.cluster.connect import listen_on_loopback
from msd_ray.cluster.planning.forecast import Forecast, Upcoming, forecast
from msd_ray.cluster.planning.outlook import RAY
from msd_ray.profiling.plan_times import time_plan
from msd_ray.runs.nodes import this_machine
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_status import RunStatus, read_status

if TYPE_CHECKING:
    from msd_ray.cluster.progress import StudentState

SHORT = ["teacher.images=16_000", "stages.dm.images=2_880", "stages.adm.images=960"]
QUICK = ["teacher.images=25_600", "stages.dm.images=2_560", "training.checkpoint_every=1_280"]
CLOSE = 0.2


class Stopwatch:
    """A Listener that notes when each driver of a run begins: the teacher's, then the students'."""

    def __init__(self) -> None:
        self.begun: dict[bool, float] = {}

    def note(self, line: str) -> None:
        say(f"  {line}")

    def watch(self, statuses: "list[StudentState]") -> None:
        self.begun.setdefault(statuses[0].name == "teacher", time.perf_counter())

    @property
    def teacher_seconds(self) -> float:
        return self.begun[False] - self.begun[True]


def trained(context: RunContext) -> tuple[float, float, RunStatus]:
    """Wall seconds of a whole run and of its teacher's training, and how the run stood at its end."""
    from msd_ray.cluster.train import train  # imports ray, which the processes that time the plan must not

    watch, begin = Stopwatch(), time.perf_counter()
    train(context.plan, context.store, context.cache, None, watch)
    return time.perf_counter() - begin, watch.teacher_seconds, read_status(context.store)


def compared(predicted: Forecast, wall: float, teacher: float, status: RunStatus) -> dict[str, Any]:
    """The figures. `is_within` says whether wall time and every student's images/s are as close as they should be."""
    measured = {s.name: s.images / s.seconds for s in status.students}
    rates = [s.images_per_second / measured[s.name] for s in predicted.students]
    ratio = predicted.seconds / wall
    return {
        "wall_seconds": {"predicted": predicted.seconds, "measured": wall, "ratio": ratio},
        "teacher_seconds": {"predicted": predicted.teacher_seconds, "measured": teacher},
        "slot_hours": {"predicted": predicted.slot_hours, "measured": status.slot_seconds / 3600},
        "images_per_second": {
            "predicted": {s.name: s.images_per_second for s in predicted.students},
            "measured": measured,
            "ratio": spread(rates),
        },
        "replicas_needed": predicted.replicas_needed,
        "waited": {s.name: s.waited for s in status.students},
        "within": CLOSE,
        "is_within": all(abs(r - 1) <= CLOSE for r in [ratio, *rates]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"by default {' '.join(SHORT)}")
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--quick", action="store_true", help="toy2d, far too short to mean anything")
    args = parser.parse_args()
    recipe, overrides = ("toy2d", QUICK) if args.quick else (args.recipe, args.overrides or SHORT)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MSD_RAY_CACHE"] = f"{folder}/cache"  # no teacher is there, nor pairs
        context = RunContext.of(recipe, overrides, f"{folder}/run")
        say(f"features: {context.features.name}")
        timing = time_plan(context.plan)
        if timing is None:
            raise SystemExit("the recipe's networks are too large to be tried on this machine")
        predicted = forecast(context.plan, timing, this_machine().each(), Upcoming(teacher=True, ray=RAY))
        say(f"forecast: {predicted.seconds:.0f} s")
        listen_on_loopback(None)
        wall, teacher, status = trained(context)
        say(f"measured: {wall:.0f} s")
        figures = compared(predicted, wall, teacher, status)
    finish("forecast", {"recipe": recipe, "overrides": overrides, "timing": asdict(timing), **figures})


if __name__ == "__main__":
    main()
