"""Students that divide the steps of a sample among them are trained each on its own steps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.data import in_memory
from msd_ray.diffusion import Denoiser, Noise
from msd_ray.ensemble import Sampling
from msd_ray.ensemble.sampling import sampled
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.objectives import OBJECTIVES
from msd_ray.runs.plan import narrowed
from msd_ray.training.batches import Batches, Draw
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.ema import EMAConfig
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

from .cases import CONDITIONS, DM, OWNED, REAL, SPEC, Spy, assert_same, staged, trained, trainer

NOISE = Noise(steps=4)
PARTITION = fit(PartitionConfig(1, timesteps=2), Classes.numbered(4), noise=NOISE)
ABLE = ["adm", "dm", "f-distill", "moment-matching"]


def expert(spec: StudentSpec, phase: int) -> StudentSpec:
    """phase: 0 for the one that begins from pure noise."""
    return replace(spec, index=1 - phase, noise=narrowed(NOISE, PARTITION, 1 - phase), phase=phase, phases=2)


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("objective", ABLE)
def test_an_expert_that_was_killed_goes_on_bit_for_bit(objective: str, phase: int) -> None:
    spec = expert(staged([objective]), phase)
    whole, t = trained(spec), trainer(spec)
    while not t.done:
        t.advance(8)
        state = t.state_dict()
        t = trainer(spec, blank=True)
        t.load_state_dict(state)
    assert_same(t, whole)
    assert not t.makes_samples


def test_who_trains_experts() -> None:
    assert sorted(name for name, method in OBJECTIVES.items() if method().needs.phases) == ABLE
    said = r"^partition.timesteps: sid \(stages.0-sid\) trains no student for some of a sample's steps; take dm, adm"
    with pytest.raises(UserError, match=said):
        expert(staged(["sid"]), 1)


@pytest.mark.parametrize("phase", [0, 1])
def test_a_later_expert_begins_from_real_samples_of_its_conditions(phase: int) -> None:
    spec = expert(staged(["dm"]), phase)
    batches = Batches(spec, OWNED, REAL, None, torch.device("cpu"))
    batch, _ = batches.draw(Draw("generator", 0, 0, 64, spec.objective("0-dm").needs, 0, 0), 64)
    if not phase:
        assert batch.start is None
        return
    assert batch.start is not None
    real = {tuple(x.tolist()): int(c) for x, c in zip(REAL.take(torch.arange(10)).x, REAL.classes, strict=True)}
    assert [real[tuple(x)] for x in batch.start.tolist()] == batch.condition.tolist()
    assert set(batch.condition.tolist()) == set(CONDITIONS)


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("objective", ABLE)
def test_all_that_is_compared_lies_within_the_interval(objective: str, phase: int) -> None:
    """The questions to the teacher, and what the fake score and its discriminator are asked."""
    spec, asked = expert(staged([objective]), phase), list[Tensor]()

    class Levels(Spy):
        def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor):  # type: ignore[no-untyped-def]
            asked.append(sigma)
            return super().submit(x_t, sigma, condition)

    t = trainer(spec, Levels())
    t.nets.fake.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    features = t.nets.fake.features
    t.nets.fake.features = lambda x, sigma, c: asked.append(sigma) or features(x, sigma, c)  # type: ignore[func-returns-value, method-assign]
    t.advance(24)
    sigma = torch.cat(asked)
    assert len(sigma) > 24 and sigma.min() >= torch.tensor(spec.noise.sigma_min)
    above_the_lower_end = sigma[sigma > torch.tensor(spec.noise.sigma_min)]
    assert set(PARTITION.interval_at(above_the_lower_end).tolist()) == {1 - phase}


def test_experts_together_move_to_the_distribution_of_the_teacher() -> None:
    stage = StageConfig("dm", images=60 * 64, batch=64, generator_lr=5e-3, fake_lr=1e-2, fake_steps=4, warmup=0)
    teacher = Spy()
    x = teacher.mean + teacher.std * torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    real = in_memory(x, torch.tensor(CONDITIONS * 200))
    spec = replace(
        SPEC,
        denoiser=DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 4),
        stages={"dm": stage},
        training=TrainingConfig(ema=EMAConfig(halflife=300, rampup=0.5)),
    )
    students = [trainer(expert(spec, phase), teacher, real=real) for phase in (1, 0)]
    noises = torch.randn(4, 512, 2, generator=torch.Generator().manual_seed(0))

    def moments(of: list[StudentTrainer]) -> tuple[Tensor, Tensor]:
        experts: list[Denoiser] = [student.ema for student in of]
        with torch.no_grad():
            made = sampled(PARTITION, experts, 80.0, Sampling.of_generators(NOISE), noises, torch.full((512,), 1))
        return made.mean(dim=0), made.std(dim=0)

    before = (moments(students)[0] - teacher.mean).norm()
    for student in students:
        student.advance(spec.images)
    mean, std = moments(students)
    assert (mean - teacher.mean).norm() < min(0.15, 0.5 * float(before))
    assert ((std - teacher.std).abs() < 0.15).all(), std


def test_a_single_step_of_several_is_an_expert_too() -> None:
    partition = fit(PartitionConfig(1, timesteps=4), Classes.numbered(4), noise=NOISE)
    spec = replace(SPEC, stages={"dm": DM}, noise=narrowed(NOISE, partition, 1), phase=2, phases=4)
    assert spec.noise.step_levels == NOISE.step_levels[2:3]
    t = trainer(spec)
    t.advance(16)
    assert t.nimg == 16
