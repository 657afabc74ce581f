import math

import pytest
import torch

from msd_ray.data import DataConfig, load_data
from msd_ray.errors import UserError


def test_class_means_and_covariances_are_the_closed_form() -> None:
    """Around its centre a class is a ring of 8 modes: covariance (0.1^2 / 2 + 0.005^2) I."""
    data = load_data(DataConfig("toy2d", options={"classes": 4, "samples": 40_000}))
    variance = 0.1**2 / 2 + 0.005**2
    for k in range(4):
        x = data.train.all().x[data.train.classes == k].double()
        angle = 2 * math.pi * k / 4
        centre = torch.tensor([0.5 * math.cos(angle), 0.5 * math.sin(angle)], dtype=torch.float64)
        assert (x.mean(dim=0) - centre).abs().max() < 5 * math.sqrt(variance / len(x))
        assert torch.allclose(torch.cov(x.T), variance * torch.eye(2, dtype=torch.float64), atol=0.05 * variance)
        radius = (x - centre).norm(dim=1)
        assert radius.mean() == pytest.approx(0.1, abs=0.001)
        assert radius.std() == pytest.approx(0.005, rel=0.05)


def test_each_ring_has_eight_modes() -> None:
    data = load_data(DataConfig("toy2d", options={"classes": 2, "samples": 8000}))
    x = data.train.all().x[data.train.classes == 0] - torch.tensor([0.5, 0.0])
    turns = torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) * 8
    assert (turns - turns.round()).abs().max() < 0.4  # five standard deviations of 0.005 / 0.1 radians
    counts = torch.bincount(turns.round().long() % 8, minlength=8)
    assert counts.min() > 0.8 * len(x) / 8


def test_deterministic_in_the_seed() -> None:
    one, two, other = (
        load_data(DataConfig("toy2d", options={"classes": 3, "samples": 30, "seed": seed})) for seed in (5, 5, 6)
    )
    assert torch.equal(one.train.all().x, two.train.all().x)
    assert torch.equal(one.held_out.all().x, two.held_out.all().x)
    assert not torch.equal(one.train.all().x, other.train.all().x)
    assert len(one.train) == 30
    assert torch.bincount(one.train.classes).tolist() == [10, 10, 10]


def test_train_and_held_out_share_no_point() -> None:
    data = load_data(DataConfig("toy2d", options={"classes": 2, "samples": 200}))
    assert len(data.held_out) == 50
    assert not (data.train.all().x[:, None] == data.held_out.all().x[None]).all(dim=2).any()


def test_more_classes_than_samples_are_refused() -> None:
    with pytest.raises(UserError, match="at least one for each of the 8 classes"):
        DataConfig("toy2d", options={"classes": 8, "samples": 7})
