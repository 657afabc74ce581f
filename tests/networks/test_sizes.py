import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from msd_ray.networks import DenoiserSpec, MLPConfig, StudentSize, UNetConfig, count_parameters
from msd_ray.validation import in_range

TEACHER = UNetConfig()


def parameters(network: UNetConfig | MLPConfig) -> int:
    return DenoiserSpec(network, (3, 64, 64), 1000).parameters()


def test_the_default_is_edms_imagenet_64_network() -> None:
    assert parameters(TEACHER) == 295_899_267


@pytest.mark.parametrize(
    ("channels", "blocks", "count", "share"), [(160, 3, 172_813_603, 0.416), (128, 2, 85_943_555, 0.710)]
)
def test_the_two_smaller_students_of_msd(channels: int, blocks: int, count: int, share: float) -> None:
    student = TEACHER.cut(StudentSize(channels / 192, (1, 2, 2, 4), blocks))
    assert isinstance(student, UNetConfig)
    assert (student.channels, student.multipliers, student.blocks) == (channels, (1, 2, 2, 4), blocks)
    assert (student.attention, student.head_channels) == (TEACHER.attention, TEACHER.head_channels)
    assert parameters(student) == count
    assert 1 - count / parameters(TEACHER) == pytest.approx(share, abs=5e-4)


def test_the_digits_network_is_small() -> None:
    spec = DenoiserSpec(UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,)), (1, 8, 8), 10)
    assert 100_000 < spec.parameters() < 300_000
    assert spec.parameters() == count_parameters(spec.build())  # counted without allocating, yet the same


@pytest.mark.parametrize("network", [UNetConfig(channels=16, multipliers=(1, 2), blocks=1), MLPConfig(width=8)])
def test_a_spec_survives_json(network: UNetConfig | MLPConfig) -> None:
    spec = DenoiserSpec(network, (1, 8, 8), 10, sigma_data=0.7, sigma_min=0.002)
    raw = json.loads(json.dumps(spec.to_json()))
    assert DenoiserSpec.from_json(raw) == spec
    del raw["sigma_min"]  # as before there were denoisers that are the identity above 0
    assert DenoiserSpec.from_json(raw) == replace(spec, sigma_min=0.0)


def test_sigma_min_reaches_the_denoiser() -> None:
    assert DenoiserSpec(MLPConfig(width=8), (2,), 0, sigma_min=0.01).build().sigma_min == 0.01
    assert DenoiserSpec(MLPConfig(width=8), (2,), 0).build().sigma_min == 0.0


def test_a_default_size_is_the_teachers_own() -> None:
    assert TEACHER.cut(StudentSize()) == TEACHER
    assert MLPConfig().cut(StudentSize()) == MLPConfig()


@pytest.mark.parametrize(
    ("channels", "factor", "expected"),
    [
        (192, 0.5, 96),
        (192, 0.51, 96),  # 97.9: the nearest multiple of 8
        (192, 0.54, 104),
        (64, 0.5, 32),
        (16, 0.6, 8),  # 9.6: below 32 the nearest multiple of 4
        (16, 0.7, 12),
        (16, 0.01, 4),  # never less
    ],
)
def test_widths_are_rounded(channels: int, factor: float, expected: int) -> None:
    student = UNetConfig(channels=channels).cut(StudentSize(factor))
    assert isinstance(student, UNetConfig)
    assert student.channels == expected
    mlp = MLPConfig(width=channels).cut(StudentSize(factor, blocks=2))
    assert mlp == MLPConfig(width=expected, blocks=2)


def test_every_rounded_width_makes_a_network_that_runs() -> None:
    """Such as 104 channels, whose second level of 208 cannot be cut into heads of 64."""
    for factor in (0.05, 0.3, 13 / 24, 0.9, 1.6):
        student = UNetConfig(multipliers=(1, 2), blocks=1, attention=(2,)).cut(StudentSize(factor))
        with torch.device("meta"):
            network = DenoiserSpec(student, (1, 2, 2), 0).build().network
            assert network(torch.zeros(1, 1, 2, 2), torch.ones(1), torch.zeros(1)).shape == (1, 1, 2, 2)


def test_multipliers_are_refused_for_an_mlp() -> None:
    with pytest.raises(ValueError, match="multipliers apply to UNets"):
        MLPConfig().cut(StudentSize(multipliers=(1, 2)))


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_factor_that_is_not_positive_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="channel_factor"):
        in_range(StudentSize(factor))


@pytest.mark.parametrize(
    "bad",
    [
        {"channels": 0},
        {"channels": 10},
        {"multipliers": ()},
        {"multipliers": (1, 0)},
        {"blocks": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
    ],
)
def test_bad_unets_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"must be|{next(iter(bad))}"):
        in_range(UNetConfig(**bad))


@pytest.mark.parametrize("bad", [{"width": 2}, {"width": 7}, {"blocks": 1}])
def test_bad_mlps_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MLPConfig(**bad)


def test_a_resolution_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 1, 1)), (1, 6, 6), 0).build()
