"""Every recipe of real images plans on a described cluster: memory per GPU, GPU hours, and where images/s come from.

Nothing is tried: operations are counted, at a rate that is given. That takes ten seconds of CPU for each recipe even
with narrow networks, so all are planned nightly, and those that differ most always. No Ray."""

import json
import sys
from pathlib import Path

import pytest

from msd_ray.cli import main
from msd_ray.recipes.load import shipped

from .stand_ins import as_arguments, stand_ins

OWN = [name for name in shipped() if not name.startswith(("digits", "toy2d"))]
FEW = ["cifar10-fdistill", "imagenet64-gddi", "imagenet64-sid"]
NODES = "nodes: [{name: eight, count: 5, cpus: 64, gpus: 8, gpu_memory: 80, tflops: 100, price: 20}]"
ON_GPUS = ["cluster.gpus_per_student=1", "cluster.pool.gpus=1"]
"""Where a recipe is made for CPUs."""


def planned(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    monkeypatch.setenv("MSD_RAY_CACHE", str(folder / "cache"))
    (folder / "nodes.yaml").write_text(NODES)
    made = as_arguments(stand_ins(name, folder / "data"))
    gpus = ON_GPUS if name.startswith(("fashion", "emoji")) else []
    run = ["--run-dir", str(folder / "run"), "--cluster", str(folder / "nodes.yaml")]
    monkeypatch.setattr(sys, "argv", ["msd-ray", "plan", name, *made, *gpus, *run, *options])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert not stop.value.code, err
    assert not (folder / "run").exists()
    return out


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.nightly) for name in OWN]
)
def test_a_plan_says_memory_gpu_hours_and_its_assumption(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = planned(name, tmp_path, monkeypatch, capsys, "smoke=true")
    assert "memory: a student " in said or "memory: each of a student's " in said
    assert "MB on its device" in said and " GPU hours, cost " in said
    assert "updates: counted, at 100 TFLOP/s as given: an extrapolation" in said
    assert "images/s" in said and "operations per image: " in said


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", OWN)
def test_students_of_full_size_fit_gpus_of_80_gb(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` refuses those that do not."""
    found = json.loads(planned(name, tmp_path, monkeypatch, capsys, "--json"))
    needs, forecast = found["needs"], found["forecast"]
    assert 0 < needs["student_memory"] < 80e9 and needs["tflops"] == 100
    assert forecast["gpu_hours"] > 0 and all(s["images_per_second"] > 0 for s in forecast["students"])
    if name.startswith(("cifar10", "imagenet64")):
        assert needs["student_memory"] > 5e9 and forecast["gpu_hours"] > 2
