"""What a user types, and what comes back. None of these starts Ray but the resource check."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from msd_ray import __version__
from msd_ray.cli import main
from msd_ray.profiling.timing import StageTiming, Timing

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["msd-ray", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "partiton.k=3"], "unknown key partiton; did you mean partition?"),
        (["train", "nowhere"], "no recipe nowhere"),
        (["plan", "digits", "partition.k=11"], "11 students cannot share 10 classes"),
        (["plan", "digits", "network.multipliers=[1,2,2,2,2]"], "does not fit its data"),
        (["plan", TINY, "partition.kind=sequential", "cluster.gpus_per_student=9"], "needs 18 GPUs"),
        (["plan", TINY, "partition.kind=sequential", "--cluster", "nowhere.yaml"], "no file nowhere.yaml"),
        (["plan", TINY, "partition.kind=sequential", "--cluster", TINY], "unknown key name"),
        (["evaluate", "nowhere"], "nowhere"),
        (["report", "nowhere"], "is not a run directory"),
        (["generate", "nowhere"], "no ensemble at"),
        (["reproduce"], "name an experiment: toy2d, ablation-k"),
        (["reproduce", "cold-fusion"], "no experiment 'cold-fusion': give one of toy2d"),
        (["sweep", "nowhere.yaml"], "no file nowhere.yaml: give a sweep's definition"),
        (["sweep", TINY], "unknown key data"),
        (["sweep", "best", "nowhere"], "nowhere holds no sweep"),
        (["generate", "nowhere", "-o", "x.gif"], "samples are written as .png or .npy"),
        (["generate", "nowhere", "-o", "s3://bucket/x.npy"], "samples are written to a file on this machine"),
        (["frobnicate"], "No such command"),
        (["train"], "Missing argument"),
        (["train", "digits", "--nonsense"], "No such option"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the steps of TINY took on some machine; a second for whatever is not a step."""
    stages = {"dm": StageTiming(0.001, 0.0001), "adm": StageTiming(0.002, 0.0001)}
    timing = Timing("cpu", stages, open=1.0, segment=1.0, teacher=0.0001, answer=0.0001, start=1.0)
    monkeypatch.setattr("msd_ray.cluster.planning.outlook.time_plan", lambda plan: timing)


NODES = "nodes: [{name: a, cpus: 4, price: 3.0}, {name: b, cpus: 2, speed: 2.0, leaves_hours: 1}]"


def test_the_plan_says_who_owns_what(
    steps: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "train", TINY, "partition.kind=sequential", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert [s["owns"] for s in plan["students"]] == ["classes ring 0, ring 1", "classes ring 2, ring 3"]
    assert plan["students"][0]["images"] == "2,880"
    code, out, _ = run(capsys, monkeypatch, "plan", TINY, "partition.kind=sequential")
    assert code == 0
    for said in ("student 1", "wall time: ", "of it training the teacher", "slots: 2 students", "1 needed so that"):
        assert said in out


def test_the_plan_forecasts_a_cluster_that_is_described(
    steps: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text(NODES)
    plan = ("plan", TINY, "partition.kind=sequential", "partition.k=4", "cluster.cpus_per_student=2", "--json")
    alone = json.loads(run(capsys, monkeypatch, *plan, "cluster.cpus_per_student=0.1")[1])["forecast"]
    code, out, _ = run(capsys, monkeypatch, *plan, "--cluster", str(file))
    assert code == 0
    found = json.loads(out)["forecast"]
    keys = {"seconds", "teacher_seconds", "pairs_seconds", "slots", "replicas", "replicas_needed", "slot_hours"}
    assert set(found) == set(alone) == keys | {"gpu_hours", "cost", "students"}
    assert set(found["students"][0]) == {"name", "images", "seconds", "done_after", "images_per_second"}
    assert (found["slots"], found["replicas"], found["replicas_needed"]) == (2, 1, 1)
    assert found["cost"] == pytest.approx(3.0 * found["seconds"] / 3600)
    assert alone["cost"] == 0


def test_a_given_rate_stands_for_trials(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried, of whatever size the network is; twice the rate takes half the time."""
    monkeypatch.setattr("msd_ray.cluster.planning.outlook.time_plan", lambda plan: pytest.fail("tried"))
    plan = ("plan", TINY, "partition.kind=sequential", "network.width=4096", "cluster.teacher=local")
    code, out, _ = run(capsys, monkeypatch, *plan, "--tflops", "0.001")
    assert code == 0
    assert "updates: counted, at 0.001 TFLOP/s as given: an extrapolation" in out
    assert "memory: a student" in out
    plan += ("--json", "--tflops")
    slow, fast = (json.loads(run(capsys, monkeypatch, *plan, rate)[1]) for rate in ("1e-4", "2e-4"))
    assert slow["needs"]["flops_per_image"] == fast["needs"]["flops_per_image"]
    assert slow["forecast"]["slot_hours"] == pytest.approx(2 * fast["forecast"]["slot_hours"], rel=0.05)


def test_a_plan_needs_no_ray() -> None:
    """From what it measures itself, in processes of its own."""
    typed = ["msd-ray", "plan", TINY, "partition.kind=sequential", "--json"]
    code = f"""
import sys
sys.argv = {typed}
from msd_ray.cli import main
try:
    main()
finally:
    assert "ray" not in sys.modules
    assert "torch" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["forecast"]
    assert found["seconds"] > max(s["seconds"] for s in found["students"]) > 0


def test_the_baselines_are_planned_where_asked_for(
    steps: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = run(capsys, monkeypatch, "plan", TINY, "evaluation.baselines=true", "--json")
    images = {s["student"]: s["images"] for s in json.loads(out)["students"]}
    assert images["one student, same images each"] == "2,880"
    assert images["one student, same total images"] == "5,760"


def test_a_teacher_is_trained_once_and_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("teacher", "train", TINY, "teacher.images=640", "--json")
    code, first, progress = run(capsys, monkeypatch, *arguments)
    assert code == 0
    assert "kimg" in progress
    _, second, progress = run(capsys, monkeypatch, *arguments)
    assert json.loads(first) == json.loads(second)
    assert progress == ""


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_too_few_gpus_are_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "msd_ray", "train", "toy2d", "cluster.gpus_per_student=1"]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs 4 GPUs" in done.stderr
    assert "the cluster has 0" in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]) == 1
    assert not (tmp_path / "run").exists()


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "--version")
    assert (code, out.strip()) == (0, f"msd-ray {__version__}")


def test_while_a_run_is_watched_only_results_reach_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    from msd_ray.terminal import Watcher

    with Watcher() as watcher:
        print("a raylet's last words")
        watcher.note("progress")
    print("a result")
    said = capsys.readouterr()
    assert said.out == "a result\n"
    assert "a raylet's last words" in said.err


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("msd_ray.sweep.definition.load_definition", interrupted)
    code, out, err = run(capsys, monkeypatch, "sweep", "any.yaml")
    assert (code, out) == (130, "")
    assert err == "stopped\n"
