"""Students of a plan's teacher, trained here and kept as an ensemble, and what exported ones make."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from msd_ray.ensemble import Member, save_ensemble, seeded_noise
from msd_ray.runs.init_weights import starting_weights
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.storage import Store
from msd_ray.teachers import LocalTeacher, Teacher
from msd_ray.training.student_spec import Extras
from msd_ray.training.student_trainer import StudentTrainer


def trainer_of(plan: Plan, teacher: Teacher | None = None) -> StudentTrainer:
    """Of its first student. teacher: who is asked; the plan's in this process if None."""
    spec, source = plan.first, plan.source
    owned = plan.ensembles[0].partition.owned_by(0, plan.conditions)
    assert source
    initial, fake = starting_weights(spec, owned, source, "")
    real = RunContext(plan.recipe, Store("nowhere")).data.train
    teacher = teacher or LocalTeacher(load_teacher(source))
    return StudentTrainer(spec, owned, teacher, initial, real, extras=Extras(fake))


def saved(plan: Plan, weights: dict[str, Tensor], where: Path) -> str:
    """An ensemble of this one student; its path."""
    member = Member(0, plan.first.denoiser, plan.recipe.noise.sigma_init, 8, weights)
    recipe, partition = plan.recipe.to_json(), plan.ensembles[0].partition
    save_ensemble(Store(str(where)), recipe, partition, plan.labels, [member], codec=plan.recipe.codec)
    return str(where)


def as_the_card_says(pipeline: Any, folder: Path, asked: Sequence[str], seeds: Sequence[int], **also: Any) -> Any:
    """What the pipeline in that folder makes if it is called as its model card says."""
    (said,) = re.findall(r'pipeline\("a red car", (.*)\)\.images', (folder / "README.md").read_text())
    return pipeline(list(asked), **eval(f"dict({said})"), latents=seeded_noise(seeds, (4, 8, 8)), **also).images
