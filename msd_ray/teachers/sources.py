"""The sources of teachers, by their names in recipes. A file of its own, since training needs none of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from msd_ray.errors import UserError, one_line
from msd_ray.own_code import imported, is_own
from msd_ray.storage import Store
from msd_ray.teachers.converted import FILES, converted
from msd_ray.teachers.detection import format_of
from msd_ray.teachers.kept_teacher import KeptTeacher, has_teacher
from msd_ray.teachers.source import FOUND, TRAINED, TeacherSource


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
