"""A student's shape, derived from its teacher's."""

from dataclasses import dataclass, replace
from typing import Annotated

from msd_ray.networks.mlp import MLPConfig
from msd_ray.networks.unet import Multipliers, UNetConfig
from msd_ray.ranges import Blocks, within


@dataclass(frozen=True)
class StudentSize:
    """channel_factor: of the teacher's width. multipliers, blocks: the teacher's own unless given."""

    channel_factor: Annotated[float, within(gt=0, le=100)] = 1.0
    multipliers: Multipliers | None = None
    blocks: Blocks | None = None


def resize(teacher: UNetConfig | MLPConfig, size: StudentSize) -> UNetConfig | MLPConfig:
    """The teacher's shape cut to `size`; widths are rounded to a multiple of 8 (of 4 below 32 channels).

    Raises ValueError where `size` names multipliers for a network that has none.
    """
    blocks = size.blocks or teacher.blocks
    if isinstance(teacher, MLPConfig):
        if size.multipliers is not None:
            raise ValueError("multipliers apply to UNets; this teacher is an MLP")
        return replace(teacher, width=_rounded(teacher.width * size.channel_factor), blocks=blocks)
    multipliers = size.multipliers or teacher.multipliers
    channels = _rounded(teacher.channels * size.channel_factor)
    return replace(teacher, channels=channels, multipliers=multipliers, blocks=blocks)


def _rounded(width: float) -> int:
    unit = 8 if width >= 32 else 4
    return max(unit, round(width / unit) * unit)
