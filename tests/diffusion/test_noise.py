import math

import pytest
import torch

from msd_ray.diffusion import Noise, add_noise, per_sample
from msd_ray.validation import in_range


def test_grid_is_equation_5() -> None:
    noise, n = Noise(), 18
    grid = noise.grid(n)
    assert grid[0].item() == pytest.approx(0.002, rel=1e-6)
    assert grid[-1].item() == pytest.approx(80, rel=1e-6)
    for i in range(n):  # the paper counts from sigma_max down
        t = i / (n - 1)
        expected = (80 ** (1 / 7) + t * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        assert grid[n - 1 - i].item() == pytest.approx(expected, rel=1e-6)


def test_grid_has_levels_by_default_and_rises() -> None:
    grid = Noise(levels=50).grid()
    assert len(grid) == 50
    assert (grid.diff() > 0).all()


def test_rho_1_is_evenly_spaced() -> None:
    assert torch.allclose(Noise(sigma_min=1.0, sigma_max=5.0, rho=1.0).grid(5), torch.arange(1.0, 6.0))


def test_draws_are_uniform_on_the_index_with_both_ends() -> None:
    noise = Noise(levels=10)
    drawn = noise.draw(8000, 3, 6, torch.Generator().manual_seed(0))
    levels, counts = drawn.unique(return_counts=True)
    assert torch.equal(levels, noise.grid()[3:7])
    assert (counts - 2000).abs().max() < 5 * (8000 * 0.25 * 0.75) ** 0.5


def test_noise_is_added_per_sample_at_its_level() -> None:
    sigma = torch.tensor([0.0, 0.5, 20.0])
    x = torch.full((3, 2, 64, 64), 3.0)
    n = (add_noise(x, sigma, torch.Generator().manual_seed(0)) - x).flatten(1)
    assert torch.allclose(n.std(dim=1), sigma, rtol=0.05)
    assert (n.mean(dim=1).abs() <= 5 * sigma / 8192**0.5).all()


def test_per_sample_broadcasts_over_all_but_the_batch() -> None:
    assert per_sample(torch.arange(3), torch.zeros(3, 4, 5, 6)).shape == (3, 1, 1, 1)
    assert per_sample(torch.arange(3), torch.zeros(3, 2)).shape == (3, 1)


@pytest.mark.parametrize(
    "bad", [{"sigma_min": 0.0}, {"sigma_min": 90.0}, {"sigma_max": 0.001}, {"levels": 1}, {"rho": math.nan}]
)
def test_bad_schedules_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"must be|{next(iter(bad))}"):
        in_range(Noise(**bad))  # type: ignore[arg-type]
