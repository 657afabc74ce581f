"""Features for images of any kind: those of EfficientNet-Lite0 as trained on ImageNet."""

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.codecs import to_bytes
from msd_ray.evaluation.feature_distances import Features
from msd_ray.networks import efficientnet
from msd_ray.networks.efficientnet import normalised

NAME, SIDE = efficientnet.NAME, 96
"""Of the features, and the pixels of a side that images are resized to where the name does not say: at 96 the network
takes a fifth of the time that it takes at the 224 pixels it was trained at."""
WIDTH = 1280


class EfficientNetLite0(nn.Module):
    """The means over the last feature map, 1280 numbers per image. Knows no classes: ImageNet's are not the data's."""

    def __init__(self, network: Any, side: int = SIDE, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.name = NAME if side == SIDE else f"{NAME}-{side}"
        self._network, self._side, self._device = network, side, device

    @torch.no_grad()
    def features(self, x: Tensor) -> Features:
        seen = prepared(to_bytes(x.to(self._device)), self._side)
        return cast(Features, self._network.extract_features(seen).mean((2, 3)).cpu().double().numpy())

    def classify(self, x: Tensor) -> Tensor | None:
        return None


def prepared(pixels: Tensor, side: int) -> Tensor:
    """uint8 [N, 1 or 3, H, W] -> what the network takes, [N, 3, side, side]."""
    return normalised(F.interpolate(pixels.float(), (side, side), mode="bilinear", antialias=True))


def load(side: int = SIDE) -> EfficientNetLite0:
    """Raises UserError where its packages are not installed, or hold another file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return EfficientNetLite0(network().to(device), side, device)


@cache
def network() -> Any:
    """One for all evaluations of this process."""
    return efficientnet.network()
