"""The pictures of a student's networks: the right network in the right row, the same noise every time."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.diffusion import one_step
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.teachers import Answer, LocalTeacher
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.preview import ROWS, SAMPLES, SIGMAS, preview
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

UNET = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)
DENOISER = DenoiserSpec(UNET, (1, 8, 8), 4)


@dataclass
class Constant:
    """A teacher that always says the same, and notes what it was asked."""

    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        self.asked.append((x_t, sigma))
        return LocalTeacher(lambda x, s, c: torch.full_like(x, 0.25)).submit(x_t, sigma, condition)


def trainer(objective: str, teacher: Any) -> StudentTrainer:
    stage = StageConfig(objective, images=8, batch=4, generator_lr=1e-3, fake_lr=1e-3, fake_steps=1, warmup=0)
    spec = StudentSpec(0, 1, DENOISER, {"only": stage}, TrainingConfig())
    owned = Owned(Classes.numbered(4), torch.tensor([1, 3]))
    t = StudentTrainer(spec, owned, teacher, None, in_memory(torch.zeros(4, 1, 8, 8), torch.tensor([1, 3, 1, 3])))
    t.advance(8)
    return t


def test_rows_are_the_students_samples_and_what_teacher_and_fake_score_make_of_them() -> None:
    teacher = Constant()
    t = trainer("dm", teacher)
    teacher.asked.clear()
    rows = preview(t)
    assert rows.shape == (len(ROWS), SAMPLES, 1, 8, 8)
    assert [float(sigma[0]) for _, sigma in teacher.asked] == list(SIGMAS)
    condition = torch.tensor([1, 3] * (SAMPLES // 2))
    for i, (x_t, sigma) in enumerate(teacher.asked):
        assert (rows[1 + 2 * i] == 0.25).all()
        assert torch.equal(rows[2 + 2 * i], t.nets.fake(x_t, sigma, condition))
        assert 0.7 < float((x_t - rows[0]).std() / SIGMAS[i]) < 1.3
    assert torch.equal(rows, preview(t))


def test_a_denoiser_in_training_is_shown_in_place_of_its_fake_score() -> None:
    teacher = Constant()
    t = trainer("tsm", teacher)
    teacher.asked.clear()
    rows, condition = preview(t), torch.tensor([1, 3] * (SAMPLES // 2))
    (x_t, sigma), _ = teacher.asked
    assert torch.equal(rows[2], t.ema(x_t, sigma, condition))
    assert one_step(t.ema, torch.zeros(1, 1, 8, 8), condition[:1], 80.0).shape == rows[0, :1].shape


def test_looking_changes_nothing() -> None:
    looked, left = trainer("dm", Constant()), trainer("dm", Constant())
    preview(looked)
    for part, tensors in left.state_dict().tensors.items():
        assert all(torch.equal(value, looked.state_dict().tensors[part][name]) for name, value in tensors.items())
