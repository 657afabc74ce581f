"""The students of one part, at work: images in, encoded images out."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from msd_ray.ensemble import Pair, Part, read_description
from msd_ray.errors import CorruptError
from msd_ray.serving.core.batcher import Batcher, Sample
from msd_ray.serving.core.config import StudentConfig
from msd_ray.serving.core.describe import part_hash
from msd_ray.serving.core.images import encoded
from msd_ray.serving.core.positions import positions_show
from msd_ray.serving.core.service import Made
from msd_ray.storage import Store


def load_part(uri: str, part: int, version: str, device: torch.device | str) -> tuple[Part, bool]:
    """The students of a part, every byte verified, and whether positions in their batches show.

    Raises CorruptError where they are damaged, or are not those of that version any more.
    """
    known = read_description(Store(uri))
    found = part_hash(known, part)
    if found != version:
        raise CorruptError(f"{uri} has changed: its part {part} is {found} now, not {version}; deploy it as an update")
    loaded = Part.load(known, part, device)
    return loaded, positions_show(loaded, known.partition.owners.index(part))


class StudentAtWork:
    """To be used in one event loop."""

    def __init__(self, part: Part, positions_show: bool, config: StudentConfig, thread: ThreadPoolExecutor) -> None:
        """thread: a single one, which all evaluations run in."""
        free = not positions_show
        self._batcher = Batcher(part, thread, config.queue, config.batch, config.wait_ms / 1000, free)

    @property
    def waiting(self) -> int:
        """Images that wait now."""
        return self._batcher.waiting

    async def make(self, pairs: Sequence[Pair], format: str, seconds: float) -> list[Made]:
        """The image of each class and seed. Raises Refusal as `Batcher.make`."""
        samples = await self._batcher.make(pairs, seconds)
        return await asyncio.to_thread(lambda: [_made(sample, format) for sample in samples])


def _made(sample: Sample, format: str) -> Made:
    return Made(encoded(sample.x, format), sample.queue_ms, sample.compute_ms, sample.batch)
