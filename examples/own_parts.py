"""Parts of your own, which a recipe names as `own_parts:NAME`: data, a kind of network, a teacher, a codec.

`examples/own_parts.yaml` is a recipe of them: `PYTHONPATH=examples msd-ray train examples/own_parts.yaml` (on a cluster
this folder must be importable on all nodes). The data are handwritten digits, stored as [4, 4, 4] instead of [1, 8, 8].
docs/own_parts.md says what each part must have.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.data import DataConfig, DataSet, in_memory, load_data
from msd_ray.diffusion import Denoiser, Network
from msd_ray.networks import StudentSize
from msd_ray.networks.embedding import ConditionEmbedding


def folded_digits(classes: int = 10) -> DataSet:
    """Data: the digits below `classes`, every 2 x 2 pixels of them as four channels."""
    digits = load_data(DataConfig("digits"))
    train, held_out = (split.only(list(range(classes))).all() for split in (digits.train, digits.held_out))
    return DataSet(
        in_memory(F.pixel_unshuffle(train.x, 2), train.condition),
        in_memory(F.pixel_unshuffle(held_out.x, 2), held_out.condition),
        digits.labels[:classes],
        fingerprint=f"digits, folded, {classes} classes",
    )


@dataclass(frozen=True)
class PlainConv:
    """A kind of network: residual convolutions at one resolution. width: channels. blocks: at least two."""

    kind: str = "own_parts:PlainConv"
    width: int = 32
    blocks: int = 2

    def build(self, sample_shape: tuple[int, ...], classes: int) -> Network:
        return _PlainConvNet(self, sample_shape, classes)

    def cut(self, size: StudentSize) -> "PlainConv":
        return replace(self, width=size.width_of(self.width), blocks=size.blocks or self.blocks)

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return "" if len(sample_shape) == 3 else "network.kind: PlainConv is for images; write network.kind=mlp"


class _PlainConvNet(Network):
    """F(x [B, C, H, W], c_noise [B], condition) -> [B, C, H, W]."""

    def __init__(self, config: PlainConv, sample_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, *size = sample_shape
        self.feature_shapes = [(config.width, *size)]
        self.embedding = ConditionEmbedding(config.width, config.width, classes)
        self.first = nn.Conv2d(channels, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(config.width, config.width, 3, padding=1) for _ in range(config.blocks))
        self.last = nn.Conv2d(config.width, channels, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        h, embedding = self._halfway(x, c_noise, condition)
        for block in self.blocks[len(self.blocks) // 2 :]:
            h = h + block(F.silu(h + embedding))
        out: Tensor = self.last(F.silu(h))
        return out

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """What discriminators see: the features halfway."""
        return [self._halfway(x, c_noise, condition)[0]]

    def _halfway(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embedding(c_noise, condition)[:, :, None, None]
        h: Tensor = self.first(x)
        for block in self.blocks[: len(self.blocks) // 2]:
            h = h + block(F.silu(h + embedding))
        return h, embedding


@dataclass(frozen=True)
class Memory:
    """A teacher: the best denoiser of a finite set, in closed form (EDM, arXiv 2206.00364, appendix B.3). It has no
    weights, so students start from random ones."""

    classes: int = 10
    parameters: int = 0
    sample_shape: tuple[int, ...] = (4, 4, 4)
    spec: None = None

    @property
    def fingerprint(self) -> str:
        return folded_digits(self.classes).fingerprint

    def open(self, device: torch.device) -> Denoiser:
        known = folded_digits(self.classes).train.all().to(device)

        def denoise(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
            """The mean of the known samples of that class, weighed by how likely each became x_t."""
            distance = torch.cdist(x_t.flatten(1), known.x.flatten(1)).square()
            likely = -distance / (2 * sigma[:, None] ** 2)
            own = likely.masked_fill(condition[:, None] != known.condition, -torch.inf)
            return (own.softmax(dim=1) @ known.x.flatten(1)).reshape(x_t.shape)

        return denoise

    def weights(self) -> None:
        return None


@dataclass(frozen=True)
class Unfold:
    """A codec: what the folded digits look like."""

    def picture_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels, height, width = sample_shape
        return channels // 4, 2 * height, 2 * width

    def to_pixels(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, 2)
