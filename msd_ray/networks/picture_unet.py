"""A UNet that is shown a picture beside its input: the condition of super-resolution."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.diffusion import Network
from msd_ray.networks.sizes import StudentSize
from msd_ray.networks.unet import UNet, UNetConfig


@dataclass(frozen=True)
class PictureUNetConfig:
    """unet: its shape. Conditions are pictures of as many channels as the samples have, and of any size."""

    kind: Literal["picture-unet"] = "picture-unet"
    unet: UNetConfig = field(default_factory=UNetConfig)
    takes: ClassVar[str] = "picture"

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "PictureUNet":
        return PictureUNet(self.unet, sample_shape)

    def cut(self, size: StudentSize) -> "PictureUNetConfig":
        return replace(self, unet=self.unet.cut(size))

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return self.unet.misfit(sample_shape)


class PictureUNet(Network):
    """F(x [B, C, H, W], c_noise [B], picture [B, C, h, w]) -> [B, C, H, W]: a UNet without classes of x and the
    picture, scaled to its size by bicubic interpolation. Of the 2 C channels that it makes the first C count."""

    def __init__(self, config: UNetConfig, sample_shape: tuple[int, ...]) -> None:
        """Raises ValueError as `UNet`."""
        super().__init__()
        self.channels, *sides = sample_shape
        self.unet = UNet(config, (2 * self.channels, *sides), 0)
        self.feature_shapes = self.unet.feature_shapes

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        made: Tensor = self.unet(self._beside(x, condition), c_noise, condition)
        return made[:, : self.channels]

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        return self.unet.encode(self._beside(x, condition), c_noise, condition)

    def _beside(self, x: Tensor, picture: Tensor) -> Tensor:
        return torch.cat([x, F.interpolate(picture.to(x.dtype), x.shape[2:], mode="bicubic")], dim=1)
