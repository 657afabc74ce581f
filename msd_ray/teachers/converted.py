"""Teachers in files of other formats, each converted once, into the cache."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from msd_ray.diffusion import Denoiser
from msd_ray.errors import UserError, one_line
from msd_ray.networks import DenoiserSpec
from msd_ray.storage import Store, default_cache, digest, refuse_unwritable
from msd_ray.teachers.adm import ADMFile
from msd_ray.teachers.checkpoint import Checkpoint
from msd_ray.teachers.detection import sha256_of
from msd_ray.teachers.diffusers_directory import DiffusersDirectory
from msd_ray.teachers.edm import EDMFile
from msd_ray.teachers.kept_teacher import KeptTeacher, has_teacher, keep
from msd_ray.teachers.safe_pickle import DAMAGES
from msd_ray.validation import made_of


class TeacherFile(Protocol):
    """A format: a dataclass of the file's path and of what a recipe may say in `teacher.options` beside it."""

    @property
    def path(self) -> str: ...

    def read(self) -> Checkpoint:
        """Raises one of `DAMAGES`, with the reason, where the file holds no such teacher. Executes nothing of it."""
        ...


FILES: dict[str, type[Any]] = {"edm": EDMFile, "adm": ADMFile, "diffusers": DiffusersDirectory}
_VERSION = 1  # to be raised when the same file is converted to something else


@dataclass(frozen=True)
class Converted:
    """The TeacherSource of a file. Whoever opens it converts it, unless their cache has it."""

    file: TeacherFile
    fingerprint: str
    spec: DenoiserSpec

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.spec.sample_shape

    @property
    def classes(self) -> int:
        return self.spec.classes

    @property
    def parameters(self) -> int:
        return self.spec.parameters()

    @property
    def origin(self) -> dict[str, str]:
        """Its format, network and licence."""
        return _kept(self.file, self.fingerprint).origin

    def open(self, device: torch.device) -> Denoiser:
        return _kept(self.file, self.fingerprint).open(device)

    def weights(self) -> dict[str, Tensor]:
        return _kept(self.file, self.fingerprint).weights()


def converted(name: str, **options: Any) -> Converted:
    """name: of the format. Raises UserError where the options are not its own, or the file holds no such teacher."""
    file = file_of(name, **options)
    fingerprint = fingerprint_of(file)
    return Converted(file, fingerprint, _kept(file, fingerprint).spec)


def file_of(name: str, **options: Any) -> TeacherFile:
    """Not read yet. Raises UserError where the options are not those of the format."""
    try:
        file: TeacherFile = made_of(FILES[name], options, "teacher.options")
    except ValueError as error:
        raise UserError(str(error)) from None
    return file


def fingerprint_of(file: TeacherFile) -> str:
    """The sha256 of the file; of that and the options, where there are any."""
    said = {name: value for name, value in vars(file).items() if name != "path" and value != getattr(type(file), name)}
    whole = sha256_of(file.path)
    return digest([whole, said]) if said else whole


def read(file: TeacherFile) -> Checkpoint:
    """What the file holds. Raises UserError, in one line, where that is no teacher."""
    try:
        return file.read()
    except DAMAGES as error:
        reason = f"it lacks {error}" if isinstance(error, LookupError) else one_line(error)
        raise UserError(f"{file.path} holds no teacher that can be read: {reason or type(error).__name__}") from None


def keep_converted(folder: Store, checkpoint: Checkpoint, fingerprint: str) -> None:
    """As a bundle of ours."""
    origin = {"format": checkpoint.format, "network": checkpoint.network, "licence": checkpoint.licence}
    keep(folder, checkpoint.spec, checkpoint.weights, {"origin": origin, "fingerprint": fingerprint})


def _kept(file: TeacherFile, fingerprint: str) -> KeptTeacher:
    cache = default_cache()
    folder = cache.child(f"converted-{digest([_VERSION, fingerprint])}")
    if not has_teacher(folder):
        refuse_unwritable(cache, "set MSD_RAY_CACHE to a folder that can be written")
        if fingerprint_of(file) != fingerprint:
            raise UserError(f"{file.path} is no longer the file that this run began with")
        keep_converted(folder, read(file), fingerprint)
    return KeptTeacher(folder)
