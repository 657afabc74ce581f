"""How much smaller than its teacher's network a student's is to be, or how little of it is to be its own."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msd_ray.networks.adapters import Adapter
from msd_ray.ranges import Blocks, within

Experts = Annotated[int, within(ge=1, le=256)]
"""Gaussians of a mixture."""
Multipliers = Annotated[tuple[Annotated[int, within(ge=1, le=64)], ...], within(min_length=1, max_length=16)]


@dataclass(frozen=True)
class StudentSize:
    """channel_factor: of the teacher's width. multipliers, blocks: the teacher's own unless given. adapter: what alone
    is trained, on frozen weights that the students share; null: all weights. fake_adapter: the same of the fake score,
    which starts where the student does; same: trained as the student is, none: all its weights. experts: of students
    that are mixtures of Gaussians, whatever the teacher of points is. begins: what the noise of a student's first step
    lies on: nothing, or the picture that it enlarges."""

    channel_factor: Annotated[float, within(gt=0, le=100)] = 1.0
    multipliers: Multipliers | None = None
    blocks: Blocks | None = None
    adapter: Adapter | None = None
    fake_adapter: Adapter | Literal["same", "none"] = "same"
    experts: Experts | None = None
    begins: Literal["noise", "picture"] = "noise"

    def width_of(self, teachers: int) -> int:
        """The teacher's width times the factor, to the nearest multiple of 8 (of 4 below 32 channels)."""
        width = teachers * self.channel_factor
        unit = 8 if width >= 32 else 4
        return max(unit, round(width / unit) * unit)
