"""The students of one part at work: they make images and encode them."""

import asyncio
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image as Pillow
from torch import Tensor

from msd_ray.codecs import IDENTITY, Codec, to_image
from msd_ray.conditions import Condition, Embedded
from msd_ray.ensemble import Description, Part, SampleId, read_description
from msd_ray.errors import CorruptError
from msd_ray.serving.protocol.formats import FLOAT32, JPEG, PNG
from msd_ray.serving.service.batcher import Batcher, Sample
from msd_ray.serving.service.batching import Batching, batching_for
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.ensemble_facts import part_hash
from msd_ray.serving.service.preparer import ANY_PROMPT
from msd_ray.serving.service.pulse import LONGEST, Pulse
from msd_ray.serving.service.service import StudentImage
from msd_ray.storage import Store

JPEG_QUALITY = 90
"""As Pillow counts it, 1 to 95; colours have as many pixels as brightness."""


def encoded(x: Tensor, format: str, codec: Codec = IDENTITY) -> bytes:
    """A sample's picture as PNG, lossless WebP or JPEG, or the sample itself as little-endian float32."""
    if format == FLOAT32:
        return bytes(x.numpy().astype("<f4").tobytes())
    picture, file = Pillow.fromarray(to_image(codec.to_pixels(x[None])[0])), io.BytesIO()
    if format == PNG:
        picture.save(file, "PNG")
    elif format == JPEG:
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.convert("RGB").save(file, "WEBP", lossless=True)
    return file.getvalue()


def load_part(uri: str, part: int, version: str, device: torch.device | str) -> tuple[Part, Condition | Embedded]:
    """The students of a part, every byte verified, and what they can be tried with.

    Raises CorruptError if they are damaged, or no longer those of that version.
    """
    known = read_description(Store(uri))
    found = part_hash(known, part)
    if found != version:
        raise CorruptError(f"{uri} has changed: its part {part} is {found} now, not {version}; deploy it as an update")
    return Part.load(known, part, device), _trial(known, part)


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

    def __init__(
        self,
        part: Part,
        trial: Condition | Embedded,
        batching: Batching,
        config: StudentConfig,
        thread: ThreadPoolExecutor,
    ) -> None:
        """trial: what the part can be tried with. thread: a single one, which all evaluations run in."""
        self._codec, self._batching = part.codec, batching
        self.pulse = Pulse(lambda: self._batcher.make([(trial, 0)], LONGEST))
        self._batcher = Batcher(
            part, batching, thread, config.queue, config.batch, config.wait_ms / 1000, self.pulse.watch
        )

    @classmethod
    async def load(
        cls, uri: str, part: int, version: str, device: str, config: StudentConfig, thread: ThreadPoolExecutor
    ) -> "StudentAtWork":
        """The students of a part. Raises CorruptError as `load_part`."""
        loaded, trial = await asyncio.to_thread(load_part, uri, part, version, device)
        found = asyncio.get_running_loop().run_in_executor(thread, batching_for, loaded, trial, config)
        return cls(loaded, trial, await found, config, thread)

    @property
    def most(self) -> int:
        """Images of the largest evaluation."""
        return self._batcher.most

    @property
    def waiting(self) -> int:
        """Images that wait now."""
        return self._batcher.waiting

    def strain(self) -> tuple[float, float]:
        """As `Batcher.strain`."""
        return self._batcher.strain()

    async def make(
        self, sample_ids: Sequence[SampleId], format: str, seconds: float, waited: float = 0.0
    ) -> list[StudentImage]:
        """The image of each class and seed. Raises Refusal as `Batcher.make`."""
        samples = await self._batcher.make(sample_ids, seconds, waited)
        return await asyncio.to_thread(lambda: [self._image(sample, format) for sample in samples])

    def _image(self, sample: Sample, format: str) -> StudentImage:
        said, data = self._batching, encoded(sample.x, format, self._codec)
        return StudentImage(data, sample.queue_ms, sample.compute_ms, sample.batch, said.mode, said.bound)
