"""Where a teacher comes from. A new source is a class with the attributes of `TeacherSource`, named in `SOURCES`; or it
lies in a user's own module, and recipes name it as `module:Class`. A new format of files that is read into one of our
denoisers is a class with a `read`, named in `msd_ray.teachers.converted.FILES`."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from msd_ray.diffusion import Denoiser
from msd_ray.errors import UserError, one_line
from msd_ray.networks import DenoiserSpec
from msd_ray.own_code import imported, is_own
from msd_ray.storage import Store
from msd_ray.teachers.converted import FILES, converted
from msd_ray.teachers.detection import format_of
from msd_ray.teachers.kept_teacher import KeptTeacher, has_teacher

TRAINED = "trained"
"""The name of no source: the teacher is trained here, as `teacher` says in the recipe."""


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


def _bundle(path: str) -> KeptTeacher:
    """A teacher that `msd-ray teacher` trained or converted."""
    teacher = KeptTeacher(Store(path))
    if not has_teacher(teacher.folder):
        raise UserError(f"{path} holds no teacher")
    return teacher


def _found(path: str, **options: Any) -> TeacherSource:
    """Of whichever source reads that file or directory."""
    found: TeacherSource = SOURCES[format_of(path)](path=path, **options)
    return found


FOUND = "file"
"""The name of whichever source reads the file or directory of the option `path`; recipes write `teacher.from`."""
SOURCES: dict[str, Callable[..., Any]] = {
    **{name: partial(converted, name) for name in FILES},
    "bundle": _bundle,
    FOUND: _found,
}
_ATTRIBUTES = ("fingerprint", "sample_shape", "classes", "parameters", "spec", "open", "weights")


def load_source(name: str, options: dict[str, Any]) -> TeacherSource | None:
    """The source of that name; None for a teacher that is trained here. Raises UserError where it cannot be had."""
    if name == TRAINED:
        return None
    if name not in SOURCES and not is_own(name):
        known = ", ".join([TRAINED, *SOURCES])
        raise UserError(f"teacher.source: there is no {name!r}, only {known}, or module:Class for your own")
    make = SOURCES.get(name) or imported(name, "teacher.source")
    try:
        source: TeacherSource = make(**options)
        missing = [attribute for attribute in _ATTRIBUTES if not hasattr(source, attribute)]
    except UserError as error:
        raise UserError(f"teacher.source: {one_line(error)}") from None
    except Exception as error:  # whatever the user's module does
        raise UserError(f"teacher.source: {name} gives no teacher: {one_line(error)}") from None
    if missing:
        raise UserError(f"teacher.source: what {name} gives has no {missing[0]}")
    if not (isinstance(source.fingerprint, str) and source.fingerprint):
        raise UserError(f"teacher.source: the fingerprint of {name} must be a text, not {source.fingerprint!r}")
    return source
