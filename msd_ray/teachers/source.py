"""Where a teacher comes from. A new source is a class with the attributes of `TeacherSource`, named in
`msd_ray.teachers.sources.SOURCES`; or it lies in a user's own module, and recipes name it as `module:Class`. A new
format of files that is read into one of our denoisers is a class with a `read`, named in
`msd_ray.teachers.converted.FILES`."""

from typing import Protocol

import torch
from torch import Tensor

from msd_ray.diffusion import Denoiser
from msd_ray.networks import DenoiserSpec

TRAINED = "trained"
"""The name of no source: the teacher is trained here, as `teacher` says in the recipe."""
FOUND = "file"
"""The name of whichever source reads the file or directory of the option `path`; recipes write `teacher.from`."""


class TeacherSource(Protocol):
    """A teacher that is not loaded yet. Small, and fit for pickle: it is sent to each process that asks the teacher."""

    @property
    def fingerprint(self) -> str:
        """Changes with whatever the teacher's answers depend on, such as the hash of its file. Names it in caches."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """[C, H, W] or [D]."""
        ...

    @property
    def classes(self) -> int:
        """How many conditions it knows."""
        ...

    @property
    def parameters(self) -> int: ...

    @property
    def spec(self) -> DenoiserSpec | None:
        """How the teacher is built, if it is one of our denoisers: then a student of the same network starts from its
        weights, a discriminator can look into it, and `plan` counts its operations. None for any other."""
        ...

    def open(self, device: torch.device) -> Denoiser:
        """The teacher, loaded and frozen; what `spec` builds where there is a spec. It takes float32, and answers in
        it."""
        ...

    def weights(self) -> dict[str, Tensor] | None:
        """The state dict of what `spec` builds, on the CPU; None where students start from random weights."""
        ...
