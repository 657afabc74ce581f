import math

import pytest
import torch
from gpu import DIGITS, Settings, compare, make_trainer, speed

from msd_ray.objectives import OBJECTIVES

AT_THEIR_GOAL = ("tsm", "sfddm")
"""A student of the teacher's size has nothing to learn by these."""
HERE = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def settings(device: str) -> Settings:
    return Settings(torch.device(device), batch=2, warmup=1, updates=1, repeats=2, compared=2, lr=1e-5, seed=0)


@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_objective_trains(objective: str, precision: str, device: str) -> None:
    figures = speed(DIGITS, objective, precision, settings(device))
    assert figures["images_per_second"]["mean"] > 0
    assert figures["images_per_second"]["n"] == 2
    assert figures["finite"]
    assert (figures["peak_mib"] is not None) == (device == "cuda")


@pytest.mark.parametrize("device", HERE)
def test_both_precisions_start_from_the_same_weights(device: str) -> None:
    fp32, bf16 = (make_trainer(DIGITS, "dm", precision, settings(device)) for precision in ("fp32", "bf16"))
    for a, b in zip(fp32.nets.generator.parameters(), bf16.nets.generator.parameters(), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name not in AT_THEIR_GOAL])
def test_bf16_goes_the_way_of_fp32(objective: str, device: str) -> None:
    found = compare(DIGITS, objective, settings(device))
    assert found["cosine"] > 0.7
    assert 0 < found["difference"] < math.sqrt(2 * (1 - 0.7)) + 0.1
    assert found["difference_of_fp32_done_twice"] <= found["difference"]
