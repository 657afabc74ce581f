"""Generators of several steps: what training rolls out is what sampling makes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import (
    EDMDenoiser,
    Noise,
    few_steps,
    last_steps,
    levels_of_fewer,
    one_step,
    random_anchors,
    rolled_out,
)
from msd_ray.networks import DenoiserSpec, MLPConfig

LEVELS = Noise(steps=4).step_levels
N = 10


def generator() -> EDMDenoiser:
    torch.manual_seed(0)
    made = DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 3).build().double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def drawn(levels: Sequence[float], n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return z, torch.arange(n) % 3, torch.randn(len(levels) - 1, n, 2, generator=rng, dtype=torch.float64)


def by_hand(of: EDMDenoiser, z: Tensor, condition: Tensor, renoise: Tensor, levels: Sequence[float]) -> Tensor:
    """One sample [1, 2] after all of these levels."""
    x_t = levels[0] * z
    for i, level in enumerate(levels):
        x0 = of(x_t, torch.tensor([level], dtype=torch.float64), condition)
        x_t = x0 + levels[min(i + 1, len(levels) - 1)] * renoise[min(i, len(renoise) - 1)]
    return x0


def test_of_one_level_they_are_one_step_to_the_last_bit() -> None:
    of, (z, condition, _) = generator(), drawn(LEVELS)
    alone = one_step(of, z, condition, 80.0)
    assert torch.equal(few_steps(of, z, condition, torch.zeros(0, N, 2), (80.0,)), alone)
    assert torch.equal(rolled_out(of, z, condition, None, (80.0,), batches=5), alone)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_roll_out_ends_where_sampling_would_be_after_as_many_steps(batches: int) -> None:
    of, (z, condition, renoise) = generator(), drawn(LEVELS)
    x = rolled_out(of, z, condition, renoise, LEVELS, batches)
    last = last_steps(N // batches, 4) * batches
    assert last == ([0, 0, 0, 1, 1, 2, 2, 2, 3, 3] if batches == 1 else [0, 0, 1, 2, 3] * 2)
    for i, step in enumerate(last):
        one = slice(i, i + 1)
        expected = by_hand(of, z[one], condition[one], renoise[:, one], LEVELS[: step + 1])
        assert torch.allclose(x[one], expected, rtol=1e-9)
    made = few_steps(of, z, condition, renoise, LEVELS)
    assert torch.allclose(x[-1], made[-1], rtol=1e-9)
    assert not torch.allclose(x[0], made[0], rtol=1e-3)


def test_each_sample_may_have_levels_of_its_own() -> None:
    of, (z, condition, renoise) = generator(), drawn(LEVELS)
    anchors = torch.rand(3, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64).sort(0, True).values
    x = rolled_out(of, z, condition, renoise, LEVELS, anchors=anchors)
    for i, step in enumerate(last_steps(N, 4)):
        one, own = slice(i, i + 1), [LEVELS[0], *anchors[:, i].tolist()]
        expected = by_hand(of, z[one], condition[one], renoise[:, one], own[: step + 1])
        assert torch.allclose(x[one], expected, rtol=1e-9)


@pytest.mark.parametrize("noise", [Noise(steps=4), Noise(steps=4, sigma_init=2.5), Noise(steps=(5.0, 0.4, 0.1))])
def test_random_anchors_fall_from_the_start_to_the_end_of_the_grid(noise: Noise) -> None:
    anchors = random_anchors(noise, 500, torch.Generator().manual_seed(0))
    assert anchors.shape == (3, 500)
    assert (anchors[:-1] >= anchors[1:]).all()
    assert noise.sigma_min < anchors.min() < 2 * noise.sigma_min + 0.01
    assert 0.9 * noise.sigma_init < anchors.max() < noise.sigma_init
    assert torch.equal(anchors, random_anchors(noise, 500, torch.Generator().manual_seed(0)))


def test_the_gradient_is_that_of_the_last_step_alone() -> None:
    of, (z, condition, renoise) = generator(), drawn(LEVELS)
    asked: list[tuple[Tensor, Tensor]] = []
    hook = of.register_forward_pre_hook(lambda _, args: asked.append((args[0].detach().clone(), args[1])))
    ours = torch.autograd.grad(rolled_out(of, z, condition, renoise, LEVELS).sum(), list(of.parameters()))
    hook.remove()
    x_t, sigma = asked[-1]
    theirs = torch.autograd.grad(of(x_t, sigma, condition).sum(), list(of.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert [len(x) for x, _ in asked] == [7, 5, 2, N]  # no more is asked than a sample needs


def test_where_the_levels_of_a_number_of_steps_lie() -> None:
    assert Noise().step_levels == (80.0,)
    assert Noise(steps=4).step_levels == pytest.approx((80.0, 17.53, 2.515, 0.1698), rel=1e-3)
    assert Noise(steps=2, sigma_init=2.5).step_levels == pytest.approx((2.5, 0.169), rel=1e-2)
    assert Noise(steps=(5.0, 0.5)).step_levels == (80.0, 5.0, 0.5)
    assert levels_of_fewer((8.0, 4.0, 2.0, 1.0), 2) == (8.0, 2.0)


@pytest.mark.parametrize("steps", [(90.0,), (5.0, 5.0), (1.0, 2.0), (0.002,), (80.0,)])
def test_levels_that_do_not_fall_are_refused(steps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must fall from sigma_init and stay above sigma_min"):
        Noise(steps=steps)


def test_a_start_at_the_lowest_level_has_no_second_step() -> None:
    with pytest.raises(ValueError, match="there is no level between"):
        Noise(sigma_init=0.002, steps=2)
