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
    """unet: its shape. begins: what a generator's first noise lies on: nothing, or the picture of its condition.
    Conditions are pictures of as many channels as the samples have, and of any size."""

    kind: Literal["picture-unet"] = "picture-unet"
    unet: UNetConfig = field(default_factory=UNetConfig)
    begins: Literal["noise", "picture"] = "noise"
    takes: ClassVar[str] = "picture"

    def build(self, sample_shape: tuple[int, ...], classes: int) -> "PictureUNet":
        return PictureUNet(self, sample_shape)

    def cut(self, size: StudentSize) -> "PictureUNetConfig":
        return replace(self, unet=self.unet.cut(size), begins=size.begins)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return self.unet.misfit(sample_shape)


class PictureUNet(Network):
    """F(x [B, C, H, W], c_noise [B], picture [B, C, h, w]) -> [B, C, H, W]: a UNet without classes of x and the
    picture, scaled to its size by bicubic interpolation. Of the 2 C channels that it makes the first C count."""

    def __init__(self, config: PictureUNetConfig, sample_shape: tuple[int, ...]) -> None:
        """Raises ValueError as `UNet`."""
        super().__init__()
        self.begins = config.begins
        self.channels, *self.sides = sample_shape
        self.unet = UNet(config.unet, (2 * self.channels, *self.sides), 0)
        self.feature_shapes = self.unet.feature_shapes

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        made: Tensor = self.unet(self._beside(x, condition), c_noise, condition)
        return made[:, : self.channels]

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        return self.unet.encode(self._beside(x, condition), c_noise, condition)

    def origin(self, condition: Tensor) -> Tensor | None:
        return self._enlarged(condition) if self.begins == "picture" else None

    def _beside(self, x: Tensor, picture: Tensor) -> Tensor:
        return torch.cat([x, self._enlarged(picture.to(x.dtype))], dim=1)

    def _enlarged(self, picture: Tensor) -> Tensor:
        return F.interpolate(picture, self.sides, mode="bicubic")
