"""The students of one part at work: they make images and encode them."""

import asyncio
import io
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image as Pillow
from torch import Tensor

from msd_ray.codecs import IDENTITY, Codec, to_image
from msd_ray.conditions import Condition, Embedded
from msd_ray.ensemble import Description, Part, SampleId, read_description
from msd_ray.errors import CorruptError
from msd_ray.serving.protocol.formats import FLOAT32, PNG
from msd_ray.serving.service.batcher import Batcher, Sample
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.ensemble_facts import part_hash
from msd_ray.serving.service.preparer import ANY_PROMPT
from msd_ray.serving.service.service import StudentImage
from msd_ray.storage import Store


def encoded(x: Tensor, format: str, codec: Codec = IDENTITY) -> bytes:
    """A sample's picture as PNG or lossless WebP, or the sample itself as little-endian float32."""
    if format == FLOAT32:
        return bytes(x.numpy().astype("<f4").tobytes())
    picture, file = Pillow.fromarray(to_image(codec.to_pixels(x[None])[0])), io.BytesIO()
    if format == PNG:
        picture.save(file, "PNG")
    else:
        picture.convert("RGB").save(file, "WEBP", lossless=True)
    return file.getvalue()


ROUNDS = 4


def positions_show(part: Part, condition: Condition | Embedded) -> bool:
    """Whether any sample of a test depends on its position in the batch. condition: one that the part owns.

    The test makes as many samples as there are positions, in five different orders: each sample is at five positions
    and each position has five samples. It takes five evaluations.
    """
    order, rng = list(range(part.batch_size)), random.Random(0)
    sample_ids: list[SampleId] = [(condition, seed) for seed in order]
    reference = part.evaluate(sample_ids, order, part.batch_size)
    for _ in range(ROUNDS):
        rng.shuffle(order)
        if not torch.equal(part.evaluate(sample_ids, order, part.batch_size), reference):
            return True
    return False


def load_part(uri: str, part: int, version: str, device: torch.device | str) -> tuple[Part, bool]:
    """The students of a part, every byte verified, and whether positions in their batches show.

    Raises CorruptError if they are damaged, or no longer those of that version.
    """
    known = read_description(Store(uri))
    found = part_hash(known, part)
    if found != version:
        raise CorruptError(f"{uri} has changed: its part {part} is {found} now, not {version}; deploy it as an update")
    loaded = Part.load(known, part, device)
    return loaded, positions_show(loaded, _trial(known, part))


def _trial(known: Description, part: int) -> Condition | Embedded:
    """What the part can be tried with. Where gateways embed prompts it is none that this process would need a text
    encoder for."""
    if known.partition.rule is None:
        return int(known.partition.router.ids_of(part)[0])
    if not known.partition.rule.compares:
        return ANY_PROMPT
    rng = torch.Generator().manual_seed(0)
    return Embedded(ANY_PROMPT, torch.rand(known.conditions.embedded_shape, generator=rng).numpy())


class StudentAtWork:
    """To be used in one event loop."""

    def __init__(self, part: Part, positions_show: bool, config: StudentConfig, thread: ThreadPoolExecutor) -> None:
        """thread: a single one, which all evaluations run in."""
        free, self._codec = not positions_show, part.codec
        self._batcher = Batcher(part, thread, config.queue, config.batch, config.wait_ms / 1000, free)

    @property
    def waiting(self) -> int:
        """Images that wait now."""
        return self._batcher.waiting

    async def make(self, sample_ids: Sequence[SampleId], format: str, seconds: float) -> list[StudentImage]:
        """The image of each class and seed. Raises Refusal as `Batcher.make`."""
        samples = await self._batcher.make(sample_ids, seconds)
        return await asyncio.to_thread(lambda: [_made(sample, format, self._codec) for sample in samples])


def _made(sample: Sample, format: str, codec: Codec) -> StudentImage:
    return StudentImage(encoded(sample.x, format, codec), sample.queue_ms, sample.compute_ms, sample.batch)
