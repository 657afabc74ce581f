"""The discriminator head that ADM puts on the fake score's bottleneck (DMD2, arXiv 2405.14867, section 4.3)."""

from torch import nn

from msd_ray.networks.unet import group_norm


def discriminator_head(feature_shape: tuple[int, ...]) -> nn.Module:
    """Features [B, *feature_shape] -> one logit per sample, [B, 1].

    For feature maps: a convolution that halves the map, one that takes in all that is left, one to the logit; on
    DMD2's 8 x 8 maps these are its 4 x 4 kernels of stride 2 and 4. For vectors: the same with linear layers.
    """
    c = feature_shape[0]
    if len(feature_shape) == 1:
        return nn.Sequential(
            nn.Linear(c, c), nn.LayerNorm(c), nn.SiLU(), nn.Linear(c, c), nn.LayerNorm(c), nn.SiLU(), nn.Linear(c, 1)
        )
    rest = feature_shape[1] // 2
    if rest == 0:
        raise ValueError("a discriminator head needs a bottleneck of at least 2 x 2 pixels: use fewer multipliers")
    return nn.Sequential(
        nn.Conv2d(c, c, 4, stride=2, padding=1),
        group_norm(c),
        nn.SiLU(),
        nn.Conv2d(c, c, rest, stride=rest),
        group_norm(c),
        nn.SiLU(),
        nn.Conv2d(c, 1, 1),
        nn.Flatten(),
    )
