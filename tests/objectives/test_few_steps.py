"""Backward simulation in every objective that trains generators of several steps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Noise
from msd_ray.objectives import OBJECTIVES

from .cases import B, Case, denoised, fake_loss, generator_parameters, gradients, rng, same

LEVELS = (2.5, 0.7)
NOISE = Noise(sigma_init=2.5, steps=(0.7,))
ROLLED_OUT = ["dm", "adm", "sid", "sida", "uni-instruct", "f-distill", "moment-matching"]


def of_two_steps(case: Case, start: Tensor | None = None) -> Tensor:
    """What the first half of the batch is after one step, and the other after two; adds the second step's noise, and
    what the first begins from."""
    renoise = torch.randn(1, B, *case.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    case.batch = replace(case.batch, renoise=renoise, start=start)
    z, c, out = case.batch.z, case.batch.condition, []
    for i in range(B):
        one = slice(i, i + 1)
        begin = LEVELS[0] * z[one] + (0 if start is None else start[one])
        x = denoised(case.nets.generator, begin, [LEVELS[0]], c[one])
        if i >= B // 2:
            x_t = x.detach() + LEVELS[1] * renoise[0, one]
            x = denoised(case.nets.generator, x_t, [LEVELS[1]], c[one])
        out.append(x)
    return torch.cat(out)


@pytest.mark.parametrize("begins", ["from pure noise", "from a real sample"])
@pytest.mark.parametrize("name", [*ROLLED_OUT, "fd"])
def test_what_the_generator_is_judged_by_is_each_step_of_its_own_samples(case: Case, name: str, begins: str) -> None:
    objective = OBJECTIVES[name](NOISE)
    nets = case.equip(objective)
    expected = of_two_steps(case, case.real if begins == "from a real sample" else None)
    x = objective.draft(nets, case.batch, rng()).x
    assert torch.allclose(x, expected, rtol=1e-7, atol=1e-9)
    weights = torch.randn(x.shape, dtype=torch.float64, generator=rng())
    parameters = generator_parameters(case)
    same(gradients((weights * x).sum(), parameters), gradients((weights * expected).sum(), parameters))


@pytest.mark.parametrize("name", ROLLED_OUT)
def test_the_losses_are_those_of_one_step_on_the_same_samples(case: Case, name: str) -> None:
    """The fake score's loss never asks the generator; so it is the same function of x whatever x was made in."""
    losses = [fake_loss(case, OBJECTIVES[name](noise)).total for noise in (NOISE, replace(NOISE, steps=1))]
    assert losses[0].item() == losses[1].item()


def test_who_trains_a_few_steps() -> None:
    able = {name for name, method in OBJECTIVES.items() if method().needs.few_steps}
    assert able == {*ROLLED_OUT, "consistency", "fd"}
