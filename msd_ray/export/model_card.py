"""The README.md of an exported directory, with the header that model hubs read."""

from collections.abc import Sequence
from typing import Any

import yaml

from msd_ray.ensemble import Description, Member
from msd_ray.evaluation import Row, cells, headers, remarks
from msd_ray.export.prompt_pipeline import prompt_call

_LIBRARY = {"diffusers": "diffusers", "onnx": "onnx", "safetensors": "msd_ray"}
SHOWN = 20
"""Conditions that are named before the rest is only counted."""


def model_card(
    known: Description, members: Sequence[Member], of_all: bool, form: str, licence: str, rows: Sequence[Row]
) -> str:
    """members: the exported students. of_all: whether they are the whole ensemble, in one pipeline. form: which of the
    formats. licence: the teacher's, empty if unknown. rows: the table of the run, empty if it was not measured."""
    head = {
        "license": "other" if licence else "unknown",
        **({"license_name": licence} if licence else {}),
        "library_name": _LIBRARY[form],
        "tags": ["diffusion", "distillation", "msd_ray"],
    }
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        *_what(known, members, of_all),
        "## Use",
        _use(known, members[0], of_all, form),
        "## Licence",
        _licence(known.recipe, licence),
        "## Scores",
        _scores(rows),
        "## Recipe",
        f"```yaml\n{yaml.safe_dump(known.recipe, sort_keys=False)}```",
    ]
    return "\n\n".join(sections) + "\n"


def _what(known: Description, members: Sequence[Member], of_all: bool) -> list[str]:
    name, k = known.recipe.get("name", "msd_ray"), known.partition.k
    parameters = sum(member.spec.parameters() for member in members)
    title = f"# {name}: {'ensemble' if of_all else f'student {members[0].index} of {k}'}"
    made = f"samples of shape {list(members[0].spec.sample_shape)} in {_steps(known.sampling.nfe)} each"
    who = f"{len(members)} students, which own a part of the conditions each," if of_all else "It"
    said = f"{who} {'make' if of_all else 'makes'} {made}. Parameters: {parameters:,}."
    if of_all:
        return [title, said]
    ids = known.partition.router.ids_of(known.partition.part_of_student(members[0].index)).tolist()
    if known.conditions.is_open:
        return [title, said, f"It was trained on {len(ids):,} prompts, those of its part of the ensemble."]
    labels = ", ".join(f"{i} ({label})" for i, label in zip(ids, known.conditions.labels(ids[:SHOWN]), strict=False))
    rest = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    low, high = known.partition.interval_of(members[0].index)
    shared = f" Others share the work: it answers at noise levels above {low:g}, up to {high:g}."
    owned = f"It was trained on these conditions, and no others: {labels}{rest}."
    return [title, said, owned + (shared if known.partition.borders else "")]


def _steps(nfe: int) -> str:
    return "one network evaluation" if nfe == 1 else f"{nfe} network evaluations"


_CALLS = {
    "one_step": (
        ["from msd_ray.diffusion import one_step"],
        'x = one_step(student, noise, condition, config["sigma_init"])',
    ),
    "few_steps": (
        ["from msd_ray.diffusion import few_steps"],
        'x = few_steps(student, noises[0], condition, noises[1:], config["sampling"]["levels"])',
    ),
    "denoiser": ([], "x0 = student(x_t, sigma, condition)  # at its own noise levels"),
}
"""What a student alone does, by what it is: the imports, and the call."""


def _use(known: Description, member: Member, of_all: bool, form: str) -> str:
    few = len(known.sampling.levels)
    if form == "onnx":
        return (
            '`onnxruntime.InferenceSession("model.onnx").run(None, {"noise": noise, "condition": condition})`, with '
            "standard normal noise [B, ...] in float32 and condition numbers [B] in int64."
        )
    if form == "safetensors":
        needed, call = _CALLS["denoiser" if known.partition.borders else "few_steps" if few else "one_step"]
        lines = [
            "import json",
            "from safetensors.torch import load_file",
            *needed,
            "from msd_ray.networks import DenoiserSpec",
            'config = json.load(open("config.json"))',
            'student = DenoiserSpec.from_json(config["spec"]).build().eval()',
            'student.load_state_dict(load_file("model.safetensors"))',
            call,
        ]
    elif of_all:
        wanted = '["a red car", "two cats"]' if known.conditions.is_open else "[0, 1]"
        lines = [
            "from msd_ray.export.ensemble_pipeline import EnsemblePipeline",
            f'images = EnsemblePipeline.from_pretrained(".")({wanted}, seeds=[0, 1]).images',
        ]
    elif known.conditions.is_open:
        lines = [
            "from diffusers import DiffusionPipeline",
            'pipeline = DiffusionPipeline.from_pretrained(".")',
            f'images = pipeline("a red car", {_said(prompt_call(member))}).images  # not the defaults',
        ]
    else:
        asked = ["batch_size=1"]
        asked += [f"num_inference_steps={few}"] if few else []
        asked += ["class_labels=[...]"] if member.spec.classes else []
        lines = [
            "from diffusers import DiffusionPipeline",
            f'images = DiffusionPipeline.from_pretrained(".")({", ".join(asked)}).images',
        ]
    return "\n".join(["```python", *lines, "```"])


def _said(call: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in call.items())


def _licence(recipe: dict[str, Any], licence: str) -> str:
    teacher, data = recipe.get("teacher", {}), recipe.get("data", {}).get("name", "unknown data")
    source = teacher.get("source", "trained")
    where = f"that msd_ray trained on {data}" if source == "trained" else f"from {source} {teacher.get('options', {})}"
    said = f"The students were distilled from a teacher {where}, with data of {data}, and inherit the terms of both."
    unknown = "The teacher's licence is not known here; ask where it came from before you pass the students on."
    return f"{said} {f'The licence of the teacher: {licence}.' if licence else unknown}"


def _scores(rows: Sequence[Row]) -> str:
    if not rows:
        return "The run has no table of scores; `msd-ray evaluate` measures one."
    lines = [headers(), ["---"] * len(headers()), *(cells(row) for row in rows)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *remarks(rows)]).strip()
