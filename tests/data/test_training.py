"""Training on what files hold: the same weights from memory, read ahead and after a kill; broken images are told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.conditions import Classes
from msd_ray.data import DataConfig, load_data
from msd_ray.diffusion import Noise
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.recipes import parse_recipe
from msd_ray.storage import Store
from msd_ray.training import reading
from msd_ray.training.state import State, tensors_of
from msd_ray.training.teacher_trainer import TeacherConfig, TeacherTrainer

from .formats import CLASSES, ENCODED, KINDS, images, png, written

NETWORK = {"kind": "unet", "channels": 4, "multipliers": [1], "blocks": 1, "attention": []}


def teacher(config: DataConfig) -> TeacherTrainer:
    """Of a set that is opened anew, as a process that starts does it."""
    train = load_data(config).train
    spec = DenoiserSpec(UNetConfig(channels=4, multipliers=(1,), blocks=1, attention=()), train.shape, CLASSES)
    said = TeacherConfig(images=16, batch=4)
    return TeacherTrainer(said, spec, Noise(), train, Classes.numbered(CLASSES))


@pytest.mark.parametrize("kind", KINDS)
def test_reading_ahead_and_a_kill_keep_the_bits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(written(kind, tmp_path)[0], flip=True)
    held = teacher(config)
    held.advance(10**6)
    monkeypatch.setattr(reading, "HELD", 0)
    ahead = teacher(config)
    ahead.advance(8)
    state = ahead.state_dict()
    kept = State(
        {part: {name: t.clone() for name, t in all.items()} for part, all in state.tensors.items()}, state.meta
    )
    ahead.advance(10**6)
    ahead.rest()
    resumed = teacher(config)
    resumed.load_state_dict(kept)
    resumed.advance(10**6)
    resumed.rest()
    assert held._data.is_held and not ahead._data.is_held and resumed.nimg == 16
    for name, wanted in held.denoiser.state_dict().items():
        assert torch.equal(ahead.denoiser.state_dict()[name], wanted), name
        assert torch.equal(resumed.denoiser.state_dict()[name], wanted), name


def recipe(data: DataConfig) -> Any:
    stage = {"objective": "adm", "images": 64, "batch": 16, "fake_steps": 1}
    said = {"name": data.name, "folder": data.folder, "flip": True}
    return parse_recipe(
        {"name": "x", "data": said, "network": NETWORK, "stages": {"adm": stage}, "partition": {"k": 2}}
    )


def student(run: Path, context: Any, number: int) -> Any:
    """The task of a student whose teacher, of random weights, is in its own process."""
    from msd_ray.cluster.students import RunInputs, student_task
    from msd_ray.runs.run_directory import keep_partition
    from msd_ray.runs.teacher_cache import KeptTeacher, keep_teacher

    asked, plan, teacher = context.recipe, context.plan, Store(str(run / "teacher"))
    keep_partition(context.store, plan.ensembles[0])
    torch.manual_seed(0)
    facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    keep_teacher(teacher, plan.teacher, State({"ema": tensors_of(plan.teacher.build())}, facts))
    inputs = RunInputs(
        asked.data, asked.conditions, asked.evaluation, Store(str(run / "cache")), KeptTeacher(teacher), None, 0.0
    )
    return student_task(context.store, plan.students[number], inputs)


def test_a_set_with_broken_images_trains_and_says_how_many(tmp_path: Path) -> None:
    """1 of 100 images, of a class that the second student owns; killed on the way, it ends with the same weights."""
    from msd_ray.runs.broken_images import broken_images
    from msd_ray.runs.run_context import RunContext
    from msd_ray.runs.run_report import write_all
    from msd_ray.training.checkpoints import Checkpoints

    x, y = [png(each) for each in images("parquet", 100)], np.arange(100) % 4
    x[63] = x[63][:70]
    config = ENCODED["parquet"](tmp_path, x, y)
    ends = []
    for name, kill in (("whole", False), ("killed", True)):
        context = RunContext(recipe(config), Store(str(tmp_path / name)))
        task = student(tmp_path / name, context, number=1)
        training = task.open()
        while not training.advance(16, [], lambda: False).done:
            if kill:
                training.rest()
                training = task.open()
        ends.append(Checkpoints(task.checkpoints, 1).latest().tensors["generator"])
        assert broken_images(context) == (told := "1 of 100 training images are broken and were skipped: 63.png")
        write_all(context, [], None)
        assert told in context.store.read("report.html").decode()
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
