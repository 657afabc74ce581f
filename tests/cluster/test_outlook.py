"""What `plan` says of nodes whose rate or memory is described, and where seconds come from."""

from pathlib import Path

import pytest

from msd_ray.cluster.planning.outlook import CONTEXT, outlook, refuse_small_gpus
from msd_ray.errors import UserError
from msd_ray.profiling.counts import UncountableError
from msd_ray.profiling.timing import StageTiming, Timing
from msd_ray.runs.nodes import NodeKind
from msd_ray.runs.run_context import RunContext

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
GPUS = ["cluster.gpus_per_student=0.5", "cluster.pool.gpus=1"]
TRIED = Timing("cpu", {"dm": StageTiming(0.001), "adm": StageTiming(0.001)}, 0.0, 0.0, 0.0, 0.0, 0.0)


def context(*overrides: str) -> RunContext:
    return RunContext.of(TINY, ["partition.kind=sequential", *overrides], None)


def nodes(folder: Path, text: str) -> str:
    file = folder / "nodes.yaml"
    file.write_text(f"nodes: [{text}]")
    return str(file)


def test_nodes_train_at_their_own_rates(tmp_path: Path) -> None:
    local = context("cluster.teacher=local", "cluster.cpus_per_student=1")
    both = "{name: a, tflops: 1e-6}, {name: b, tflops: 3e-6}"
    found = outlook(local, nodes(tmp_path, both))
    a, b = (student.seconds for student in found.forecast.students)
    assert max(a, b) == pytest.approx(3 * min(a, b), rel=0.02)
    assert found.tflops == 1e-6
    alone = outlook(local, nodes(tmp_path, "{name: a, cpus: 2}"), tflops=3e-6)
    assert alone.forecast.students[0].seconds == pytest.approx(min(a, b), rel=0.02)
    assert alone.steps == "counted, at 3e-06 TFLOP/s as given: an extrapolation"


@pytest.mark.parametrize(
    ("text", "tflops", "message"),
    [
        ("{name: a, cpus: 9, tflops: 1}", 1.0, "the node a has tflops already: give them there or as --tflops, not"),
        ("{name: a, cpus: 9, tflops: 1}, {name: b}", None, "the node b has no tflops: give all nodes tflops, or none"),
        ("{name: a, tflops: 1, speed: 2}", None, "tflops and speed both say how fast it is: give one of them"),
        ("{name: a, tflops: 0}", None, "tflops: input should be greater than 0, not 0"),
    ],
)
def test_rates_that_contradict_each_other(text: str, tflops: float | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as told:
        outlook(context(), nodes(tmp_path, text), tflops)
    assert "\n" not in str(told.value)


def test_a_gpu_that_is_too_small_is_told_in_one_line() -> None:
    made, node = context(*GPUS).plan, NodeKind("a", gpus=2, gpu_memory=8.0)
    enough = 4_000_000_000 - CONTEXT
    refuse_small_gpus(made, enough, 2 * enough, [node, NodeKind("b", gpus=1), NodeKind("c", gpu_memory=1.0)])
    with pytest.raises(UserError) as told:
        refuse_small_gpus(made, 2 * enough, 0, [node])
    assert str(told.value) == (
        "a student needs 7.5 GB of a GPU's memory, and has 4 GB on the node a: lower the stages' batch or the "
        "network's size, raise cluster.gpus_per_student up to 1, or describe larger GPUs"
    )
    with pytest.raises(UserError, match=r"a teacher replica needs 8.5 GB .* raise cluster.pool.gpus up to 1"):
        refuse_small_gpus(made, 0, 8_000_000_000, [node])


def test_a_plan_is_refused_before_anything_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msd_ray.cluster.planning.outlook.time_plan", lambda plan: pytest.fail("tried"))
    with pytest.raises(UserError, match=r"has 0.01\d* GB|has 10 MB"):
        outlook(context(*GPUS), nodes(tmp_path, "{name: a, cpus: 4, gpus: 4, gpu_memory: 0.02}"))


def test_an_objective_that_cannot_be_counted_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UncountableError("stage dm cannot be counted without data: it looks")

    monkeypatch.setattr("msd_ray.cluster.planning.outlook.time_plan", lambda plan: TRIED)
    monkeypatch.setattr("msd_ray.cluster.planning.outlook.count_student", refuse)
    file = nodes(tmp_path, "{name: a, cpus: 4}")
    found = outlook(context(), file)
    assert found.student is None
    assert "student_memory" not in found.to_json()
    assert found.steps == "tried on this machine"
    with pytest.raises(UserError, match="it looks; plan it where updates can be tried"):
        outlook(context(), file, tflops=1.0)
