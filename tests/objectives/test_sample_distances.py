import math
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.errors import UserError
from msd_ray.objectives import sample_distances as distances
from msd_ray.objectives.sample_distances import distance

A, B = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_l2_is_the_mean_squared_error_of_each_sample() -> None:
    expected = [sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / 12 for p, q in pairs()]
    assert distance("l2", A, B).tolist() == pytest.approx(expected)


def test_huber_is_the_pseudo_huber_distance_with_its_published_constant() -> None:
    c = 0.00054 * math.sqrt(12)
    squares = [sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for p, q in pairs()]
    assert distance("huber", A, B).tolist() == pytest.approx([math.sqrt(s + c**2) - c for s in squares])


def pairs() -> list[tuple[list[float], list[float]]]:
    return [(a.flatten().tolist(), b.flatten().tolist()) for a, b in zip(A, B, strict=True)]


@pytest.mark.parametrize("kind", ["l2", "huber"])
def test_a_sample_is_at_distance_0_of_itself_and_has_no_gradient_there(kind: Any) -> None:
    x = A.clone().requires_grad_(True)
    apart = distance(kind, x, A)
    assert (apart == 0).all()
    (gradient,) = torch.autograd.grad(apart.sum(), x)
    assert (gradient == 0).all()


def test_huber_is_quadratic_near_zero_and_then_linear() -> None:
    zero, step = torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    tiny, small, large, larger = (distance("huber", zero, s * step).item() for s in (1e-5, 2e-5, 10.0, 20.0))
    assert small / tiny == pytest.approx(4, rel=0.05)
    assert larger / large == pytest.approx(2, rel=1e-3)


@pytest.fixture
def without_lpips(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    distances._network.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    yield
    distances._network.cache_clear()


@pytest.mark.usefixtures("without_lpips")
def test_lpips_is_refused_in_one_line_where_the_package_is_absent() -> None:
    with pytest.raises(UserError, match="pip install lpips") as error:
        distance("lpips", A, B)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("without_lpips")
def test_lpips_is_refused_for_points() -> None:
    with pytest.raises(UserError, match="compares images"):
        distance("lpips", A[:, 0, 0], B[:, 0, 0])


@pytest.mark.usefixtures("without_lpips")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "seen"), [(2, 224), (223, 224), (224, 224), (256, 256)])
def test_lpips_sees_three_channels_of_224_pixels_and_gives_one_number_a_sample(
    monkeypatch: pytest.MonkeyPatch, channels: int, size: int, seen: int
) -> None:
    class Network(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            assert a.shape == b.shape == (2, 3, seen, seen)
            return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=lambda net, verbose: Network()))
    levels = torch.tensor([0.3, -0.7]).reshape(2, 1, 1, 1)  # even images stay even
    a = levels.expand(2, channels, size, size).clone().requires_grad_()
    apart = distance("lpips", a, torch.zeros_like(a))
    assert apart.tolist() == pytest.approx([0.3, 0.7])
    apart.sum().backward()
    assert a.grad is not None and (a.grad != 0).any()
