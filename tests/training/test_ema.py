import pytest
import torch
from torch import nn

from msd_ray.training.ema import EMAConfig, update


def test_a_weight_counts_half_after_the_halflife() -> None:
    config = EMAConfig(halflife=1000, rampup=1.0)
    assert config.decay(nimg=10**6, batch=1000) == pytest.approx(0.5)
    assert config.decay(10**6, 100) ** 10 == pytest.approx(0.5)  # however many steps the images come in


def test_the_halflife_ramps_up_with_the_images_seen() -> None:
    config = EMAConfig(halflife=500_000, rampup=0.05)
    assert config.decay(nimg=20_000, batch=64) == pytest.approx(0.5 ** (64 / 1000))
    assert config.decay(10**9, 64) == pytest.approx(0.5 ** (64 / 500_000))
    decays = [config.decay(nimg, 64) for nimg in (64, 640, 6400, 64_000)]
    assert decays == sorted(decays)
    assert decays[0] < 1e-5  # the initial weights are forgotten at once


def test_no_halflife_means_no_average() -> None:
    assert EMAConfig(halflife=0).decay(1000, 64) == 0.0
    assert EMAConfig(rampup=0.0).decay(1000, 64) == 0.0


def test_update_is_the_weighted_mean_in_place() -> None:
    average, module = nn.Linear(2, 2), nn.Linear(2, 2)
    before, weight = average.weight.detach().clone(), average.weight
    update(average, module, 0.9)
    assert average.weight is weight
    assert torch.allclose(average.weight, 0.9 * before + 0.1 * module.weight)
    assert average.weight.grad_fn is None


def test_updates_converge_geometrically_to_constant_weights() -> None:
    average, module = nn.Linear(3, 1), nn.Linear(3, 1)
    start = (average.weight - module.weight).detach()
    for _ in range(10):
        update(average, module, 0.8)
    assert torch.allclose(average.weight - module.weight, 0.8**10 * start, atol=1e-6)


def test_decay_0_copies() -> None:
    average, module = nn.Linear(3, 1), nn.Linear(3, 1)
    update(average, module, 0.0)
    assert torch.equal(average.weight, module.weight)
