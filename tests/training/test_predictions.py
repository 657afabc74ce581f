"""Students of teachers that predict epsilon, v, samples or flows at the steps of a table."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.data import in_memory
from msd_ray.diffusion import Noise, NoiseTable, Stepped
from msd_ray.networks import DenoiserSpec
from msd_ray.teachers import LocalTeacher
from msd_ray.teachers.diffusers_directory import DiffusersDirectory

from ..diffusion.processes import CASES, Known
from ..teachers.diffusers_directories import network, write
from .cases import CONDITIONS, DM, SPEC, trainer

MEAN = torch.tensor([0.6, -0.3])


@dataclass(frozen=True)
class KnownConfig:
    prediction: Any
    table: NoiseTable
    kind: str = "tests:KnownConfig"

    def build(self, sample_shape: tuple[int, ...], classes: int) -> Known:
        return Known(self.prediction, self.table, *sample_shape)

    def cut(self, size: Any) -> "KnownConfig":
        return self

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        return ""


@pytest.mark.parametrize(("prediction", "table"), CASES)
def test_fifty_updates_follow_the_closed_form_gradient(prediction: Any, table: NoiseTable) -> None:
    """DM's gradient is that of KL(student || teacher), both of them known here: its mean goes towards the teacher's."""
    how, sigmas = Stepped("stepped", prediction, table), table.sigmas.tolist()
    spec = DenoiserSpec(KnownConfig(prediction, table), (2,), 4, preconditioning=how)
    noise = Noise(sigma_min=sigmas[0] * 0.999, sigma_max=sigmas[-1], sigma_init=sigmas[-3], table=table)
    teacher = spec.build()
    teacher.network.mean.data = MEAN
    stage = replace(DM, images=400, fake_steps=1, generator_lr=1e-3, fake_lr=1e-2)
    student = trainer(
        replace(SPEC, denoiser=spec, stages={"dm": stage}, noise=noise),
        LocalTeacher(teacher.requires_grad_(False)),
        initial={"network.mean": torch.zeros(2)},
    )
    student.advance(400)
    moved: Tensor = student.nets.generator.network.mean.detach()
    assert moved.norm() > 0.01
    assert F.cosine_similarity(moved, MEAN, dim=0) > 0.8


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel"])
def test_fifty_updates_bring_a_student_nearer_to_its_teacher(name: str, tmp_path: Path) -> None:
    classes = {"num_class_embeds" if name == "UNet2DModel" else "num_embeds_ada_norm": 4}
    folder = write(tmp_path, network(name, **classes), diffusers.DDPMScheduler(beta_schedule="scaled_linear"))
    checkpoint = DiffusersDirectory(str(folder)).read()
    teacher = checkpoint.spec.build().eval().requires_grad_(False)
    teacher.load_state_dict(checkpoint.weights)
    x, condition = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(CONDITIONS * 5)
    last = "network.model.conv_out.bias" if name == "UNet2DModel" else "network.model.proj_out_2.bias"
    disturbed = {**checkpoint.weights, last: checkpoint.weights[last] + 0.5}
    stage = replace(DM, objective="tsm", images=400, generator_lr=5e-4)
    student = trainer(
        replace(SPEC, denoiser=checkpoint.spec, stages={"tsm": stage}),
        LocalTeacher(teacher),
        real=in_memory(x, condition),
        initial=disturbed,
    )

    def distance() -> float:
        with torch.no_grad():
            sigma = torch.linspace(0.1, 0.6, 10)
            return float((student.nets.generator(x, sigma, condition) - teacher(x, sigma, condition)).norm())

    before = distance()
    student.advance(400)
    assert distance() < 0.5 * before
