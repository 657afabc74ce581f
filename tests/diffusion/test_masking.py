"""Masked diffusion of tokens: how they are drawn, masked and unmasked, where the distributions are known."""

import math

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Masked, drawn_tokens, mask_shares, masked, masked_loss, one_step, unmask
from msd_ray.diffusion.tokens import PERTURBATION, first_tokens, masks_of, one_hot
from msd_ray.networks import DenoiserSpec, UNetConfig

N, MANY = 4, 40_000
P = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(), dtype=torch.float64)


def independent(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """The logits of places that all have the values of P, each by itself."""
    return P.clamp(min=1e-30).log()[:, None].expand(len(x_t), N, x_t.shape[2])


def twins(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """Those of two places that always have the same value, drawn by P: once one is seen, the other is known."""
    other = x_t.flip(2)
    seen = other.sum(1, keepdim=True) > 0
    return torch.where(seen, other, P[None, :, None]).clamp(min=1e-30).log()


def test_tokens_are_drawn_by_their_logits_from_the_noise_alone() -> None:
    logits, noise = independent(torch.zeros(MANY, N, 1), P, P), normal(MANY, N, 1)
    tokens = drawn_tokens(logits, noise)
    assert torch.equal(tokens, drawn_tokens(logits, noise)) and not masks_of(tokens).any()
    torch.testing.assert_close(tokens.mean((0, 2)), P, atol=4 * 0.5 / math.sqrt(MANY), rtol=0)
    assert not tokens[:, 3].any()  # what has no probability is never drawn


def test_the_largest_noise_draws_a_token_as_well() -> None:
    assert drawn_tokens(torch.zeros(1, N, 1), torch.full((1, N, 1), 40.0))[0, :, 0].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_generator_begins_with_masks_and_even_tokens_that_do_not_tell_what_it_draws(share: float) -> None:
    z, bound = normal(MANY, N, 1), 4 * 0.5 / math.sqrt(MANY)
    x = first_tokens(z, share)
    assert torch.equal(x[:, :2], x[:, :2].round()) and torch.equal(
        (x - PERTURBATION * z)[:, 3].round(), x[:, 3].round()
    )
    tokens = x.round()
    assert masks_of(tokens).double().mean().item() == pytest.approx(share, abs=bound)
    torch.testing.assert_close(tokens.mean(0)[:, 0], torch.full((N,), (1 - share) / N).double(), atol=bound, rtol=0)
    made = drawn_tokens(independent(z, P, P), z)
    for value in range(3):
        chosen = tokens[made[:, value, 0] == 1]
        assert masks_of(chosen).double().mean().item() == pytest.approx(share, abs=2 * bound)


def test_masks_fall_on_each_token_with_its_samples_share() -> None:
    tokens, shares = one_hot(torch.zeros(3, MANY).long(), N).double(), torch.tensor([0.0, 0.25, 1.0])
    found = masks_of(masked(tokens, shares.double(), rng())).double().mean((1, 2))
    torch.testing.assert_close(found, shares.double(), atol=4 * 0.5 / math.sqrt(MANY), rtol=0)


def test_shares_of_masks_are_an_arc_cosine() -> None:
    shares = mask_shares(torch.zeros(MANY, 1), rng()).double().sort().values
    even = (torch.arange(MANY) + 0.5).double() / MANY
    assert (
        1 - torch.cos(math.pi / 2 * shares) - even
    ).abs().max() < 0.02  # the distribution function of 2/pi arccos(u)


def test_the_loss_is_the_cross_entropy_of_masked_tokens() -> None:
    index = torch.tensor([[0, 1, 2], [2, 2, 0]])
    x, logits = one_hot(index, N).double(), normal(2, N, 3)
    asked: list[Tensor] = []

    def denoiser(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        asked.extend([x_t, sigma])
        return logits

    loss, (x_t, _) = masked_loss(denoiser, x, torch.zeros(2).long(), rng()), asked
    hidden = [(i, j) for i in range(2) for j in range(3) if not x_t[i, :, j].any()]
    assert 0 < len(hidden) < 6 and all(torch.equal(x_t[i, :, j], x[i, :, j]) for i in range(2) for j in range(3)
                                       if (i, j) not in hidden)  # fmt: skip
    lost = [logits[i, :, j].exp().sum().log() - logits[i, index[i, j], j] for i, j in hidden]
    assert loss.item() == pytest.approx(sum(float(each) for each in lost) / len(hidden), rel=1e-12)


def test_no_denoiser_has_less_loss_than_the_entropy() -> None:
    index = torch.multinomial(P, 3 * MANY, replacement=True, generator=rng()).reshape(MANY, 3)
    loss = masked_loss(independent, one_hot(index, N).double(), torch.zeros(MANY).long(), rng())
    assert loss.item() == pytest.approx(-(P[:3] * P[:3].log()).sum().item(), abs=0.02)


def test_one_place_at_a_time_has_the_joint_distribution_and_all_at_once_that_of_each() -> None:
    z, none = normal(MANY, N, 2), torch.zeros(MANY).long()
    steps = {n: normal_steps(n) for n in (1, 64)}
    made = {n: unmask(twins, z, none, n, lambda step, n=n: steps[n][step]) for n in steps}  # type: ignore[misc]
    same = {n: (x[:, :, 0] * x[:, :, 1]).sum(1).mean().item() for n, x in made.items()}
    assert same[1] == pytest.approx(float((P**2).sum()), abs=0.02) and same[64] > 0.97
    for x in made.values():
        torch.testing.assert_close(x.mean((0, 2)), P, atol=0.01, rtol=0)


def normal_steps(n: int) -> Tensor:
    return torch.randn(n, MANY, N, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_unmasking_asks_at_the_cosines_levels_and_leaves_no_mask(steps: int) -> None:
    asked, shares = list[float](), list[float]()

    def denoiser(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        asked.append(sigma[0].item())
        shares.append(masks_of(x_t).double().mean().item())
        return independent(x_t, sigma, condition)

    z = normal(200, N, 100)
    x = unmask(denoiser, z, torch.zeros(200).long(), steps, lambda step: normal(steps, 200, N, 100)[step])
    assert asked == pytest.approx([math.cos(math.pi / 2 * i / steps) for i in range(steps)])
    assert shares == pytest.approx(asked, abs=0.02) and not masks_of(x).any()


def test_a_one_step_generator_of_tokens_makes_tokens_of_its_logits() -> None:
    torch.manual_seed(0)
    spec = DenoiserSpec(UNetConfig(channels=4, multipliers=(1,), blocks=1, attention=()), (N, 4, 4), 3)
    plain = spec.build().double().eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    generator = EDMDenoiser(plain.network, preconditioning=Masked(), classes=3)
    z, condition = normal(5, N, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    share = torch.full((5,), 0.6, dtype=torch.float64)
    logits = plain.network(first_tokens(z, 0.6), share, condition)
    torch.testing.assert_close(generator(first_tokens(z, 0.6), share, condition), logits)
    assert torch.equal(one_step(generator, z, condition, 0.6), drawn_tokens(logits, z))
