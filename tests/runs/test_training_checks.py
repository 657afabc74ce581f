"""What divides weights among workers, and what cannot."""

from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")


def plan(*overrides: str) -> Plan:
    divided = ["partition.kind=sequential", "training.sharding=full", "training.shards=4"]
    return RunContext.of(TINY, [*divided, "cluster.workers_per_student=[2, 2]", *overrides], None).plan


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["student.adapter={rank: 2}"], "full divides all weights; leave student.adapter and fake_adapter out"),
        (["training.compile=true"], "full and training.compile exclude each other"),
        (["training.replay=true"], "full and training.replay exclude each other"),
        (["training.optimizer_state=int8"], "no 8 bits; write training.optimizer_state=fp32 or host"),
        (["cluster.workers_per_student=[2, 3]"], "4 shards are not the same number for each of 3 workers"),
        (["cluster.gpus_per_student=0.5"], "full needs a whole GPU for each worker, or none, not 0.5"),
    ],
)
def test_what_cannot_be_divided_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=r"^training\.sharding: .*") as caught:
        plan(*overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_can_be_divided_is_planned() -> None:
    made = plan("training.precision=bf16", "training.recompute=true", "training.optimizer_state=host")
    assert made.first.training.sharding == "full"
    assert plan("cluster.workers_per_student=[1, 2]").cluster.workers_per_student == (1, 2)
