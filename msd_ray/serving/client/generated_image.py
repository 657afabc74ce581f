"""What a client gets back."""

from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from msd_ray.errors import MsdRayError
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.protocol.formats import FLOAT32, name_of, to_array, to_picture


class RefusedError(MsdRayError):
    """The service did not answer. code: the name of the gRPC status, such as INVALID_ARGUMENT."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class GeneratedImage:
    """An image. students: who made it, of the ensemble `version`; student_version changes if they do. queue_ms,
    compute_ms: how long it waited at them, and how long its evaluation took. prompt, margin, position: where the
    version takes prompts; how much more the next part would cost this one, and where it lies on the map. class_id is
    0 then. batching: "exact" where each bit is that of `msd-ray generate`; else values may differ by `bound`."""

    index: int
    class_id: int
    seed: int
    students: tuple[int, ...]
    version: str
    student_version: str
    queue_ms: float
    compute_ms: float
    format: str
    shape: tuple[int, ...]
    data: bytes
    prompt: str = ""
    margin: float = 0.0
    position: tuple[float, ...] = ()
    batching: str = ""
    bound: float = 0.0

    def array(self) -> NDArray[np.float32]:
        """The sample, float32 [C, H, W] or [D], about -1 to 1. Raises ValueError where it came as a picture."""
        if self.format != FLOAT32:
            raise ValueError(f"this image came as {self.format}: ask for format={FLOAT32!r}")
        return to_array(self.data, self.shape)

    def picture(self) -> Pillow.Image:
        """The picture. Raises ValueError where it came as float32."""
        if self.format == FLOAT32:
            raise ValueError("this image came as float32: ask for format='png'")
        return to_picture(self.data)


def made_of(image: pb.Image) -> GeneratedImage:
    return GeneratedImage(
        index=image.index,
        class_id=image.class_id,
        seed=image.seed,
        students=tuple(image.students),
        version=image.version,
        student_version=image.student_version,
        queue_ms=image.queue_ms,
        compute_ms=image.compute_ms,
        format=name_of(image.format),
        shape=tuple(image.shape),
        data=image.data,
        prompt=image.prompt,
        margin=image.margin,
        position=tuple(image.position),
        batching=image.batching,
        bound=image.bound,
    )


def refused(error: grpc.RpcError) -> RefusedError:
    return RefusedError(error.code().name, error.details() or "no reason given")
