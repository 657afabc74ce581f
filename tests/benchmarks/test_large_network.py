import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from large_network import CLASSES, QUICK, make_data, make_teacher, training
from watched import watched

from msd_ray.networks import DenoiserSpec
from msd_ray.runs.run_context import RunContext
from msd_ray.teachers.kept_teacher import KeptTeacher


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_is_watched_with_its_children(tmp_path: Path) -> None:
    child = "held = bytearray(300_000_000); import time; time.sleep(2)"
    facts = watched(python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{child}'])"), tmp_path, 0)
    memory = facts["memory_gb"]
    assert memory["command"] < 0.3 <= memory["ray"] < memory["all"]
    assert facts["seconds"] > 0 and facts["least_free_gb"] > 0 and "left" not in facts


def test_a_command_is_killed_when_it_is_time(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    line = python(f"import time; open('{begun}', 'w').close(); time.sleep(600)")
    assert watched(line, tmp_path, 0, until=begun.exists)["left"] == 0


@pytest.mark.parametrize(
    ("code", "least_free", "why"),
    [
        ("raise SystemExit('no room')", 0, "ended with 1:\nno room"),
        ("import time; time.sleep(600)", 1e9, "ended, because the machine had"),
    ],
)
def test_the_benchmark_ends_with(code: str, least_free: float, why: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=why):
        watched(python(code), tmp_path, least_free)


def test_the_recipe_takes_the_teacher_and_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))
    network, side = QUICK
    spec = DenoiserSpec(network, (3, side, side), CLASSES)
    make_data(tmp_path / "data", side)
    make_teacher(tmp_path / "teacher", spec)
    line = training(tmp_path, network, side, Namespace(threads=2, teacher="pool"))
    plan = RunContext.of(line[1], line[2:], None).plan
    (student,) = plan.students
    assert student.spec.denoiser == plan.teacher == spec
    assert (student.spec.images, plan.recipe.training.checkpoint_every) == (2, 1)
    weights = KeptTeacher(plan.source.folder).open(torch.device("cpu")).parameters()  # type: ignore[union-attr]
    assert all(p.any() for p in weights)
