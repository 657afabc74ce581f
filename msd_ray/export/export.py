"""A run's students in a directory that other programs read, written whole or not at all."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msd_ray.conditions import Classes
from msd_ray.diffusion import Masked
from msd_ray.ensemble import ONE_STEP, Description, Member, read_description, read_member
from msd_ray.errors import UserError
from msd_ray.export.model_card import model_card
from msd_ray.export.onnx_model import write_onnx
from msd_ray.export.prompt_pipeline import prompt_pipeline
from msd_ray.export.stock_pipelines import STOCK
from msd_ray.export.stock_unet import TRIED, consistency_pipeline
from msd_ray.extras import needed
from msd_ray.networks.weights import to_chunks
from msd_ray.own_code import is_own
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.runs.run_results import known_rows
from msd_ray.storage import Store
from msd_ray.storage.local_disk import TEMPORARY
from msd_ray.teachers import TRAINED
from msd_ray.teachers.sources import load_source

Facts = dict[str, Any]


def export(uri: str, form: str, student: int | None, output: Path) -> Facts:
    """Writes a student, or with `diffusers` also a whole ensemble, into the new directory `output`; with a model card.

    uri: a run or an ensemble. form: one of FORMATS. student: its number; None for the only one, or for all together.
    Returns facts about what was written. Raises UserError if an argument is wrong or a library is missing, CorruptError
    if the ensemble is damaged, MsdRayError if what was written makes other samples than msd_ray; then nothing stays.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form}: there is no such format, only {', '.join(FORMATS)}")
    known = read_description(ensemble_folder(uri))
    chosen = _chosen(known, form, student)
    numbers = [chosen] if chosen is not None else range(known.partition.k)
    members = [read_member(known, number).merged() for number in numbers]
    with whole(output) as folder:
        write = _ensemble_pipeline if chosen is None else FORMATS[form]
        facts = write(known, members, folder)
        card = model_card(
            known, members, chosen is None, form, teachers_licence(known.recipe), known_rows(Store(uri)) or []
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return {"output": str(output), "format": form, "students": [member.index for member in members], **facts}


def teachers_licence(recipe: dict[str, Any]) -> str:
    """Of the teacher that students of this recipe were distilled from, as its file says; empty where it is not known,
    or the file no longer there."""
    said = recipe.get("teacher", {})
    name = str(said.get("source", TRAINED))
    try:
        source = None if is_own(name) else load_source(name, said.get("options", {}))
    except UserError:
        return ""
    return str(getattr(source, "origin", {}).get("licence", ""))


def _chosen(known: Description, form: str, student: int | None) -> int | None:
    """The one student to be exported; None for all. Raises UserError where there is no such, or it cannot be alone."""
    k = known.partition.k
    if student is not None and not 0 <= student < k:
        raise UserError(f"--student {student}: there are students 0 to {k - 1}")
    if known.conditions.is_open and form != "diffusers":
        raise UserError("students of prompts are exported with --format diffusers")
    if known.conditions.is_open:
        network: Any = read_member(known, 0).spec.network
        return 0 if student is None and k == 1 and network.kind in STOCK else student
    if student is None and k == 1 and (form != "diffusers" or known.sampling == ONE_STEP):
        student = 0  # several steps are what only the pipeline of a whole ensemble makes
    if student is None and form != "diffusers":
        raise UserError(
            f"choose one of the {k} students with --student 0 to {k - 1}; only --format diffusers takes all"
        )
    if student is not None and not isinstance(known.conditions, Classes) and form == "diffusers":
        raise UserError("pipelines of diffusers take class numbers, and these students take something else")
    few = form == "diffusers" and bool(known.sampling.levels) and not known.partition.borders
    if student is not None and known.sampling != ONE_STEP and form != "safetensors" and not few:
        raise UserError(
            "these students make a sample in several steps: take --format safetensors, or --format diffusers without "
            "--student"
        )
    return student


def _safetensors(known: Description, members: Sequence[Member], folder: Path) -> Facts:
    (member,) = members
    ids = _owned(known, member)
    description = {
        "spec": member.spec.to_json(),
        "sigma_init": member.sigma_init,
        "images": member.nimg,
        "conditions": dict(zip(ids, known.conditions.labels(ids), strict=True)),
        "sampling": known.sampling.to_json(),
    }
    weights = member.build(known.conditions).state_dict()
    Store(str(folder)).write_chunks("model.safetensors", lambda: to_chunks(weights))
    (folder / "config.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return {}


def _onnx(known: Description, members: Sequence[Member], folder: Path) -> Facts:
    (member,) = members
    if isinstance(member.spec.preconditioning, Masked):
        raise UserError("students of tokens are not exported as ONNX: take --format safetensors, or diffusers for all")
    student, condition = member.build(known.conditions), _owned(known, member)[0]
    model = folder / "model.onnx"
    return {"difference": write_onnx(student, member.sigma_init, member.spec.sample_shape, condition, model)}


def _diffusers(known: Description, members: Sequence[Member], folder: Path) -> Facts:
    (member,) = members
    if known.conditions.is_open:
        pipeline, difference = prompt_pipeline(known, member)
    else:
        student, conditions = member.build(known.conditions), _owned(known, member)[:TRIED]
        levels = known.sampling.levels or (member.sigma_init,)
        pipeline, difference = consistency_pipeline(student, member.spec, levels, conditions)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return {"difference": difference}


def _ensemble_pipeline(known: Description, members: Sequence[Member], folder: Path) -> Facts:
    pipeline = needed("msd_ray.export.ensemble_pipeline", "hf").of_ensemble(known, members)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return {}


def _owned(known: Description, member: Member) -> list[int]:
    """The conditions of a student."""
    ids: list[int] = known.partition.router.ids_of(known.partition.part_of_student(member.index)).tolist()
    return ids


FORMATS: dict[str, Callable[[Description, Sequence[Member], Path], Facts]] = {
    "safetensors": _safetensors,
    "diffusers": _diffusers,
    "onnx": _onnx,
}


@contextmanager
def whole(output: Path) -> Iterator[Path]:
    """A folder that becomes `output` if the block ends well, and is removed if not. Raises UserError where `output` is
    there already or cannot be made."""
    if output.exists():
        raise UserError(f"{output} is there already: give another place with -o, or remove it")
    folder = output.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.rename(output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}; give another place with -o") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
