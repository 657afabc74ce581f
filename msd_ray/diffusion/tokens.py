"""Samples that are tokens: [B, n, ...], at each place one 1 among n values, or zeros alone where it is masked.

What is drawn follows from normal noise of the same shape, as everything that generators make does. Two of its channels
serve for one number each at every place, see `FOR_TOKENS` and `FOR_MASKS`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.diffusion.noise import per_sample

FOR_TOKENS, FOR_MASKS = 0, 1
FEWEST = 3
"""Values of a token, so that noise has a channel left for what a generator begins with."""
PERTURBATION = 0.1


def one_hot(index: Tensor, n: int) -> Tensor:
    """Tokens [B, n, ...] of their numbers [B, ...]."""
    return F.one_hot(index, n).movedim(-1, 1)


def masks_of(x_t: Tensor) -> Tensor:
    """Where tokens [B, n, ...] are masked, [B, 1, ...]."""
    return (x_t == 0).all(dim=1, keepdim=True)


def masked(x: Tensor, share: Tensor, rng: torch.Generator) -> Tensor:
    """Tokens [B, n, ...], each of which is masked with the probability that share [B] gives for its sample."""
    drawn = torch.rand(x[:, :1].shape, generator=rng, device=rng.device, dtype=x.dtype)
    return x * (drawn >= per_sample(share, x))


def uniform(noise: Tensor, channel: int) -> Tensor:
    """Numbers from 0 to 1, [B, 1, ...], of one channel of normal noise [B, n, ...]."""
    even: Tensor = torch.special.ndtr(noise[:, channel : channel + 1])
    return even


def drawn_tokens(logits: Tensor, noise: Tensor) -> Tensor:
    """A token for every place, [B, n, ...], drawn by these logits [B, n, ...] with noise ~ N(0, I) of that shape."""
    reached = logits.detach().softmax(dim=1).cumsum(dim=1)
    index = (uniform(noise, FOR_TOKENS) >= reached).sum(dim=1).clamp(max=logits.shape[1] - 1)
    return one_hot(index, logits.shape[1]).to(logits.dtype)


def first_tokens(z: Tensor, share: float) -> Tensor:
    """What one-step generators begin with (Di[M]O, arXiv 2503.15457, token initialization), of z ~ N(0, I) [B, n, ...]:
    this share of masks, tokens drawn evenly at all other places, and a little noise on the channels of z that draw
    nothing."""
    n, drawn = z.shape[1], uniform(z, FOR_MASKS)
    index = ((drawn - share) / max(1 - share, 1e-6) * n).long().clamp(0, n - 1)
    tokens = one_hot(index[:, 0], n).to(z.dtype) * (drawn >= share)
    free = torch.cat([torch.zeros_like(z[:, : FEWEST - 1]), z[:, FEWEST - 1 :]], dim=1)
    return tokens + PERTURBATION * free
