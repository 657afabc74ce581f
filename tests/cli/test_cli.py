"""What a user types, and what comes back. None of these starts Ray but the resource check."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from msd_ray import __version__
from msd_ray.cli import main

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
        (["train", "digits", "partiton.k=3"], "unknown key partiton.k; did you mean partition.k?"),
        (["train", "nowhere"], "no recipe nowhere"),
        (["plan", "digits", "partition.k=11"], "11 students cannot share 10 classes"),
        (["plan", "digits", "network.multipliers=[1,2,2,2,2]"], "does not fit its data"),
        (["evaluate", "nowhere"], "nowhere"),
        (["report", "nowhere"], "is not a run directory"),
        (["generate", "nowhere"], "no ensemble at"),
        (["reproduce"], "name an experiment: toy2d, ablation-k"),
        (["reproduce", "cold-fusion"], "no experiment 'cold-fusion': give one of toy2d"),
        (["generate", "nowhere", "-o", "x.gif"], "samples are written as .png or .npy"),
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


def test_the_plan_says_who_owns_what(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "train", TINY, "partition.kind=sequential", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert [s["owns"] for s in plan["students"]] == ["ring 0 ring 1", "ring 2 ring 3"]
    assert plan["students"][0]["images"] == "2,880"
    assert plan["estimated_seconds_per_student"] >= 0
    code, out, _ = run(capsys, monkeypatch, "plan", TINY, "partition.kind=sequential")
    assert code == 0
    assert "student 1" in out


def test_the_baselines_are_planned_where_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
    command = [sys.executable, "-m", "msd_ray", "train", "digits", "cluster.gpus_per_student=1"]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs 5 GPUs" in done.stderr
    assert "the cluster has 0" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "--version")
    assert (code, out.strip()) == (0, f"msd-ray {__version__}")
