"""What a file or directory of a teacher is, and a bundle of ours made of it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msd_ray.diffusion import Noise, Preconditioning, Stepped
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec
from msd_ray.storage import Store, refuse_unwritable
from msd_ray.teachers.checkpoint import Checkpoint
from msd_ray.teachers.converted import FILES, file_of, fingerprint_of, keep_converted, read
from msd_ray.teachers.detection import format_of, sha256_of
from msd_ray.teachers.sources import load_source


def inspect(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """As plain data. All of a file is read and checked, and nothing in it executed. options: as in `teacher.options` of
    a recipe. Raises UserError where it is no teacher."""
    name = format_of(path)
    if name in FILES:
        checkpoint = read(file_of(name, path=path, **options))
        own = {"network": checkpoint.network, "parameters": checkpoint.parameters, "licence": checkpoint.licence}
        return {"path": path, "format": name, **own, "sha256": sha256_of(path), **_of_spec(checkpoint.spec)}
    source = load_source(name, {"path": path, **options})
    if source is None:
        raise UserError(f"{path} is no teacher")
    said = {"path": path, "format": name, "parameters": source.parameters, "fingerprint": source.fingerprint}
    said |= {key: value for key, value in getattr(source, "origin", {}).items() if key != "format"}
    shape = {"sample_shape": list(source.sample_shape), "classes": source.classes}
    return {**said, **(_of_spec(source.spec) if source.spec else shape)}


def convert(path: str, options: dict[str, Any], output: Path) -> Checkpoint:
    """Makes a bundle of ours in the directory `output`, which must not hold anything yet. Raises UserError, and leaves
    it as it is, where the file holds no teacher."""
    name = format_of(path)
    if name not in FILES:
        raise UserError(f"{path} needs no conversion: write `teacher.from` with it")
    if output.exists() and (not output.is_dir() or os.listdir(output)):
        raise UserError(f"{output} exists; choose another directory")
    file = file_of(name, path=path, **options)
    checkpoint, folder = read(file), Store(str(output))
    refuse_unwritable(folder, "choose another directory")
    keep_converted(folder, checkpoint, fingerprint_of(file))
    return checkpoint


def _of_spec(spec: DenoiserSpec) -> dict[str, Any]:
    """And what a recipe must say so that students start from the teacher's weights."""
    low, high = spec.preconditioning.span
    said = spec.to_json()
    return {
        "sample_shape": list(spec.sample_shape),
        "classes": spec.classes,
        "preconditioning": said.get("preconditioning", {"kind": "edm", "noise_scale": 1.0}),
        "noise_levels": [low, high if high < float("inf") else None],
        "recipe": {"network": said["network"], **_noise(spec.preconditioning)},
    }


def _noise(how: Preconditioning) -> dict[str, Any]:
    """The levels of a network that was trained at steps, up to the highest of them that is used otherwise."""
    if not isinstance(how, Stepped):
        return {}
    levels, usual = how.table.sigmas, Noise()
    high, init = (float(levels[levels <= most][-1]) for most in (usual.sigma_max, usual.sigma_init))
    return {"noise": {"table": asdict(how.table), "sigma_min": how.span[0], "sigma_max": high, "sigma_init": init}}
