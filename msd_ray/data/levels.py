"""Grey images of another format as tokens: each pixel the nearest of a few levels, as `codecs.levels` reads them."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from torch import Tensor

from msd_ray.codecs.levels import levels_of
from msd_ray.data.registry import DataConfig, identity, load_data
from msd_ray.data.source import DataSet, Indices, Rows, Split, as_seen
from msd_ray.diffusion.tokens import FEWEST, one_hot
from msd_ray.errors import UserError
from msd_ray.ranges import within
from msd_ray.storage import digest
from msd_ray.validation import made_of

_VERSION = 1  # to be raised when the same images get other tokens


@dataclass(frozen=True)
class Levels:
    """of: the images, as `data` of a recipe names it. levels: how many there are, from black to white."""

    of: dict[str, Any] = field(default_factory=lambda: {"name": "digits"}, hash=False)
    levels: Annotated[int, within(ge=FEWEST, le=256)] = 17

    def __post_init__(self) -> None:
        made_of(DataConfig, self.of, "of")

    def load(self) -> DataSet:
        """Raises UserError where the data are no grey images."""
        config = made_of(DataConfig, self.of)
        data = load_data(config)
        if len(data.shape) != 3 or data.shape[0] != 1:
            raise UserError(f"data.options.of: levels are those of grey images, not of samples {list(data.shape)}")
        fingerprint = digest([_VERSION, identity(config), self.levels])
        train, held_out = (self._quantised(split) for split in (data.train, data.held_out))
        return replace(data, train=train, held_out=held_out, fingerprint=fingerprint)

    def _quantised(self, split: Split) -> Split:
        return replace(split, rows=_Tokens(split.rows, self.levels))


@dataclass(frozen=True)
class _Tokens:
    """Stored images as tokens, made when they are asked for."""

    rows: Rows
    levels: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.levels, *self.rows.shape[1:])

    @property
    def broken(self) -> dict[int, str]:
        return getattr(self.rows, "broken", {})

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Indices) -> Tensor:
        return one_hot(levels_of(as_seen(self.rows.take(indices)), self.levels), self.levels).float()
