"""SFDDM against a re-derivation with explicit loops, and its levels, which are those of its sampler."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Noise, NoiseTable, ddim
from msd_ray.objectives import SFDDM, Batch, Nets

from .cases import NOISE, B, Case, at_levels, denoised, features, generator_loss, generator_parameters, rng, same_loss
from .cases import karras as level


def expected(case: Case, steps: int, feature_weight: float) -> Tensor:
    """The mean absolute difference of the noise that both see, and of how alike samples are in their bottlenecks."""
    source = rng()
    drawn = torch.randint(steps, (B,), generator=source).tolist()
    sigmas = [level(steps - 1 - i, steps) if steps > 1 else 80.0 for i in drawn]
    x_t = at_levels(case.real, sigmas, source)

    def noise(denoiser: EDMDenoiser) -> Tensor:
        x0 = denoised(denoiser, x_t, sigmas, case.real_condition)
        return torch.stack([(x_t[i] - x0[i]) / sigmas[i] for i in range(B)])

    def alike(denoiser: EDMDenoiser | None) -> Tensor:
        assert denoiser is not None
        rows = [maps[-1].flatten() for maps in features(denoiser, x_t, sigmas, case.real_condition)]
        products = torch.stack([torch.stack([a @ b for b in rows]) for a in rows])
        return products / products.norm(dim=1, keepdim=True)

    apart = (noise(case.nets.generator) - noise(case.teacher).detach()).abs().mean()
    return apart + feature_weight * (alike(case.nets.generator) - alike(case.nets.encoder)).abs().mean()


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("feature_weight", [0.0, 0.7])
def test_it_is_as_derived(case: Case, steps: int, feature_weight: float) -> None:
    loss = generator_loss(case, SFDDM(NOISE, steps, feature_weight)).total
    same_loss(loss, expected(case, steps, feature_weight), generator_parameters(case))


def test_without_its_feature_term_it_asks_for_no_encoder(case: Case) -> None:
    objective = SFDDM(NOISE, feature_weight=0.0)
    assert not objective.needs.encoder
    case.nets = replace(case.nets, encoder=None)
    assert set(generator_loss(case, objective).parts) == {"noise"}


TABLE = Noise(sigma_min=0.03, sigma_max=14.0, sigma_init=14.0, table=NoiseTable(schedule="scaled_linear"))


@pytest.mark.parametrize("noise", [Noise(), TABLE], ids=["karras", "table"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_it_learns_at_the_levels_at_which_its_sampler_asks_and_at_all_of_them(noise: Noise, steps: int) -> None:
    asked = []

    def spy(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        asked.append(float(sigma[0]))
        return x

    n, nets = 200, Nets(*2 * [None])  # type: ignore[list-item]
    z, c = torch.randn(n, 2), torch.zeros(n).long()
    objective = SFDDM(noise, steps)
    draft = objective.draft(nets, Batch(z, c, z, c), rng())
    ddim(spy, z, c, noise, objective.needs.ddim_steps)
    assert sorted(set(draft.sigma.tolist()), reverse=True) == asked and len(asked) == steps
