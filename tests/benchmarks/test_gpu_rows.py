"""The rows of benchmarks/gpu.py about EDM's ImageNet-64 network, on a tiny one."""

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu import compiled, exact, memory, sampling, updates
from gpu_adm import IMAGENET64, TINY, Adm, flops
from gpu_plain import plain_update
from gpu_rows import Figures, Rows, rows_of
from gpu_small import parts

from msd_ray.training import precision

HERE = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
CPU = torch.device("cpu")


@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize("block", [updates, sampling, exact, memory, compiled])
def test_every_row_has_figures(block: Callable[[Adm], None], device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(precision, "BACKEND", "eager")
    rows = Rows(torch.device(device), seconds=600)
    adm = Adm(rows, "tiny", batch=2)
    adm.count()
    block(adm)
    for row in rows.rows[1:]:
        assert "error" not in row, row
        rate = row["images_per_second"]
        assert rate.get("mean", rate.get("one_step")) > 0
        assert ("peak_gib" in row) == (device == "cuda")


def test_flops_are_those_of_the_literature() -> None:
    """219.3 GFLOP per image, and 295.9 million parameters (ADM, arXiv 2105.05233, table 4, in EDM's form)."""
    counted = flops(IMAGENET64)
    assert counted["parameters"] == 295_899_267
    assert counted["forward"] == pytest.approx(219.3e9, rel=1e-3)
    assert counted["dm"] == pytest.approx((6 * 3 + 7) * counted["forward"], rel=1e-2)
    assert counted["adm"] > counted["dm"]


def test_a_row_that_fails_or_takes_too_long_costs_no_other() -> None:
    def full() -> Figures:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    def slow() -> Figures:
        time.sleep(60)
        return {}

    rows = Rows(CPU, seconds=30)
    rows.measure("full", 5, full)
    rows.measure("slow", 0.12, slow)  # a CPU has 20 times as long
    rows.measure("well", 5, lambda: {"figure": 1})
    first, second, third = rows.rows
    assert first["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB."
    assert second["error"] == "not done in 2 s"
    assert third["figure"] == 1
    assert Rows(CPU, seconds=0).measure("late", 5, dict)["error"] == "no time left"


def test_a_process_that_does_not_end_is_killed_and_its_rows_stay() -> None:
    code = 'import time; print(\'{"row": "a", "figure": 1}\', flush=True); time.sleep(600)'
    found = rows_of([sys.executable, "-c", code], 1.0)
    assert found[0] == {"row": "a", "figure": 1}
    assert found[1]["error"] == "killed after 1 s"
    assert rows_of([sys.executable, "-c", "raise SystemExit(3)"], 60)[0]["error"] == "exit code 3"


@pytest.mark.parametrize("gan", [False, True])
def test_the_plain_update_moves_all_weights_of_generator_and_fake_score(gan: bool) -> None:
    torch.manual_seed(0)
    teacher, generator, fake = (TINY.build() for _ in range(3))
    nets: list[Any] = [generator, fake]
    for net in (teacher, *nets):
        for p in net.parameters():
            p.data.add_(torch.randn_like(p), alpha=0.02)
    before = [[p.clone() for p in net.parameters()] for net in (teacher, *nets)]
    real = torch.rand(4, *TINY.sample_shape)
    plain_update(generator, [fake, teacher], gan, real, 2, lambda n: torch.randint(TINY.classes, (n,)))()
    moved = [
        [not torch.equal(a, b) for a, b in zip(old, net.parameters(), strict=True)]
        for old, net in zip(before, (teacher, *nets), strict=True)
    ]
    assert not any(moved[0])
    assert sum(moved[1]) > 0.95 * len(moved[1])  # labels that are not drawn stay
    assert sum(moved[2]) > 0.95 * len(moved[2])


def test_the_parts_of_a_small_update_have_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_small.BATCH", 1)
    assert min(parts(CPU, 1)["ms"].values()) > 0
