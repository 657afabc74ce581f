"""Parts of your own, which a recipe names as `own_parts:NAME`: data, conditions, a partition, a kind of network, a
teacher, a codec.

`examples/own_parts.yaml` is a recipe of them: `PYTHONPATH=examples msd-ray train examples/own_parts.yaml` (on a cluster
this folder must be importable on all nodes). The data are handwritten digits, stored as [4, 4, 4] instead of [1, 8, 8].
docs/own_parts.md says what each part must have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.conditions import Conditions, PartitionConfig
from msd_ray.data import DataConfig, DataSet, in_memory, load_data
from msd_ray.diffusion import Denoiser, Network
from msd_ray.errors import UserError
from msd_ray.networks import StudentSize
from msd_ray.networks.embedding import ConditionEmbedding

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


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
class Words:
    """Conditions: a digit is asked for by its English word. data_labels: "0", "1", ... A network sees a vector, in
    which a digit shares a little with the two beside it."""

    data_labels: tuple[str, ...]

    @property
    def n(self) -> int:
        return len(self.data_labels)

    def labels(self, ids: Sequence[int]) -> list[str]:
        return [WORDS[i] for i in ids]

    def id_of(self, asked: int | str) -> int:
        known = WORDS[: self.n]
        if asked not in known and asked not in range(self.n):
            raise UserError(f"there is no digit {asked!r}, only {', '.join(known)}")
        return known.index(asked) if isinstance(asked, str) else asked

    def draw(self, among: Tensor, n: int, rng: torch.Generator) -> Tensor:
        return among[torch.randint(len(among), (n,), generator=rng, device=among.device)]

    def embed(self, ids: Tensor) -> Tensor:
        """[B] -> [B, n]."""
        own = F.one_hot(ids, self.n).float()
        return own + 0.1 * (own.roll(1, dims=1) + own.roll(-1, dims=1))


def first_and_rest(conditions: Conditions, config: PartitionConfig) -> list[int]:
    """A partition: the first k - 1 conditions have a student each, and the last student has all others."""
    return [min(i, config.k - 1) for i in range(conditions.n)]


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
