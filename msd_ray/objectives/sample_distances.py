"""How far samples are from the samples they should be."""

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.codecs import IDENTITY
from msd_ray.errors import UserError

Distance = Literal["l2", "huber", "lpips"]
LPIPS_PIXELS = 224


def distance(kind: Distance, a: Tensor, b: Tensor) -> Tensor:
    """Each sample's distance [B] between a and b [B, ...].

    l2: mean squared error. huber: pseudo-Huber, sqrt(|a - b|^2 + c^2) - c with c = 0.00054 sqrt(d), d elements
    (arXiv 2310.14189, section 3.3). lpips: of images [B, C, H, W] in [-1, 1] (arXiv 1801.03924), smaller ones scaled to
    224 pixels as the authors of consistency models do, from the package lpips and its weights. Raises UserError where
    these are not at hand.
    """
    if kind == "lpips":
        return _lpips(a, b)
    squares: Tensor = (a - b).square().flatten(1)
    if kind == "l2":
        return squares.mean(dim=1)
    c = 0.00054 * squares.shape[1] ** 0.5
    huber: Tensor = (squares.sum(dim=1) + c**2).sqrt() - c
    return huber


def _lpips(a: Tensor, b: Tensor) -> Tensor:
    if not IDENTITY.picture_shape(tuple(a.shape[1:])):
        raise UserError("distance lpips compares images: use l2 or huber for points")
    network = _network(a.device)
    similar: Tensor = network(_seen(a), _seen(b))
    return similar.reshape(len(a))


def _seen(x: Tensor) -> Tensor:
    """In three channels of at least 224 x 224 pixels, what the network was made for."""
    if min(x.shape[-2:]) < LPIPS_PIXELS:
        x = F.interpolate(x, (LPIPS_PIXELS, LPIPS_PIXELS), mode="bilinear")
    return x.expand(-1, 3, -1, -1)


@cache
def _network(device: torch.device) -> Any:
    try:
        import lpips  # type: ignore[import-not-found,unused-ignore]

        return lpips.LPIPS(net="vgg", verbose=False).to(device).eval().requires_grad_(False)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"distance lpips cannot be had ({error}): pip install lpips, or use l2 or huber") from None
