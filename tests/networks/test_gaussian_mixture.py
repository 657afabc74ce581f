"""A mixture of Gaussian experts: its densities, and that its points are distributed as they say."""

import pytest
import torch

from msd_ray.networks import DenoiserSpec, GaussianMixtureConfig, MLPConfig, StudentSize
from msd_ray.networks.gaussian_mixture import GaussianMixture, Mixture, chosen


def network(dim: int = 2, classes: int = 3, experts: int = 4) -> GaussianMixture:
    torch.manual_seed(0)
    return GaussianMixtureConfig(experts=experts, width=8).build((dim,), classes).double()


def evenly(n: int, dim: int) -> torch.Tensor:
    """Points whose first entries are the quantiles of a normal distribution, the others drawn."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    others = torch.randn(n, dim - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.special.ndtri(u)[:, None], others], dim=1)


def test_its_density_is_that_of_torchs_own_mixture() -> None:
    mixture, x = network().mixture(torch.tensor([0, 2])), torch.randn(2, 2, dtype=torch.float64)
    experts = torch.distributions.MultivariateNormal(mixture.mean, scale_tril=mixture.scale)
    gate = torch.distributions.Categorical(logits=mixture.log_gate)
    expected = torch.distributions.MixtureSameFamily(gate, experts).log_prob(x)
    torch.testing.assert_close(mixture.log_joint(x).logsumexp(1), expected, rtol=0, atol=1e-10)
    entropy = mixture.log_determinant + experts.event_shape[0] / 2 * (1 + torch.tensor(2 * torch.pi).log())
    torch.testing.assert_close(entropy, experts.entropy(), rtol=0, atol=1e-6)


def test_each_expert_is_chosen_as_often_as_the_gate_says_and_gets_normal_noise() -> None:
    gate = torch.tensor([0.1, 0.6, 0.0, 0.3], dtype=torch.float64)
    expert, z = chosen(gate.log().expand(100_000, 4), evenly(100_000, 2))
    assert torch.allclose(expert.bincount(minlength=4).double() / len(z), gate, atol=1e-4)
    for k in (0, 1, 3):
        first = z[expert == k, 0]
        assert first.mean().abs() < 1e-3 and (first.std() - 1).abs() < 2e-3
        assert (first.sort().values.diff() > 0).all()  # no two noises of an expert are the same


def test_its_points_have_the_moments_of_the_mixture() -> None:
    net, n = network(), 100_000
    condition = torch.full((n,), 1)
    x = net(evenly(n, 2), torch.zeros(n), condition)
    mixture = net.mixture(condition[:1])
    gate, mean, covariance = mixture.log_gate[0].exp(), mixture.mean[0], mixture.scale[0] @ mixture.scale[0].mT
    middle = (gate[:, None] * mean).sum(0)
    spread = (gate[:, None, None] * (covariance + mean[:, :, None] * mean[:, None])).sum(0) - middle.outer(middle)
    torch.testing.assert_close(x.mean(0), middle, rtol=0, atol=5e-3)
    torch.testing.assert_close(x.T.cov(), spread, rtol=0.03, atol=5e-3)


def test_what_is_detached_has_no_graph() -> None:
    mixture = network().mixture(torch.tensor([0]))
    assert all(each.requires_grad for each in mixture) and not any(each.requires_grad for each in mixture.detached())
    assert isinstance(mixture.detached(), Mixture)


def test_a_teacher_of_points_is_cut_into_experts() -> None:
    cut = MLPConfig(width=64).cut(StudentSize(experts=5, channel_factor=0.5))
    assert cut == GaussianMixtureConfig(experts=5, width=32) == cut.cut(StudentSize())
    spec = DenoiserSpec(cut, (2,), 3)
    assert DenoiserSpec.from_json(spec.to_json()) == spec and cut.misfit((2,)) == ""
    with pytest.raises(ValueError, match="makes points, not samples of"):
        cut.build((1, 8, 8), 3)
    assert network(classes=0).mixture(torch.tensor([0, 0])).mean.shape == (2, 4, 2)
