"""The operator's own function that sees each image before its caller does."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msd_ray.errors import named
from msd_ray.serving.protocol.formats import FLOAT32, to_array, to_picture
from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.deny import function_of
from msd_ray.serving.service.routing import Item, PartRequest

if TYPE_CHECKING:
    from msd_ray.serving.service.service import StudentImage

LOG = logging.getLogger(__name__)
Seen: TypeAlias = Image.Image | NDArray[np.float32]
Function: TypeAlias = Callable[[str, Seen], str]
"""Of a prompt or label, and the picture or sample made of it: why it is withheld, empty if it is not."""


class Withholding:
    """Calls the function in a thread of its own, for one image at a time. Without a name it withholds nothing."""

    def __init__(self, name: str) -> None:
        """name: `limits.withhold`. Raises UserError where the function cannot be had."""
        self._function: Function | None = function_of(name, "withhold")
        self._thread = ThreadPoolExecutor(1, "withhold")

    async def check(self, part_request: PartRequest, made: "Sequence[StudentImage]") -> None:
        """Raises Refusal for the first image that is withheld, or that the function fails at."""
        if self._function is None:
            return
        loop = asyncio.get_running_loop()
        for item, image in zip(part_request.items, made, strict=True):
            why = await loop.run_in_executor(self._thread, self._why, self._function, part_request, item, image.data)
            if why:
                raise Refusal("FAILED_PRECONDITION", why, f"conditions[{item.index}]")

    @staticmethod
    def _why(function: Function, part_request: PartRequest, item: Item, data: bytes) -> str:
        version = part_request.version
        try:
            asked = item.prompt or version.labels[item.class_id]
            seen = to_array(data, version.sample_shape) if part_request.format == FLOAT32 else to_picture(data)
            return str(function(asked, seen) or "")
        except Exception as error:  # whatever the operator's function does: then nothing is sent
            LOG.warning("limits.withhold: %s", named(error))
            raise Refusal("INTERNAL", "the service's check of images failed; nothing was sent") from None
