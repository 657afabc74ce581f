"""A guided teacher of prompts in the pool, which is sent token ids: it answers as one beside the student."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.cluster.pool.client import TeacherPool
from msd_ray.cluster.pool.pool import running_pool
from msd_ray.diffusion import per_sample, unguided
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.teachers import LocalTeacher, Teacher

from ..export.distilled import trainer_of
from ..gradients import last_gradients
from ..pipelines import PROMPTS, arguments, write_stable_diffusion
from ..transformer_pipelines import of_family, write_sd3

pytest.importorskip("diffusers")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
SID = {"objective": "sid", "images": 4, "batch": 4, "fake_steps": 1, "fake_first": 0, "fake_lr": 1e-3}
FAMILIES: dict[str, Any] = {
    "sd": (write_stable_diffusion, arguments),
    "sd3": (write_sd3, partial(of_family, "sd3")),
}


@pytest.fixture(params=FAMILIES)
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> Plan:
    """Whose teacher is guided, and whose student is taught by the teacher's gradient."""
    write, overrides = FAMILIES[request.param]
    write(tmp_path / "pipeline")
    changes = {"stages": {"sid": SID}, "cluster": {"pool": {"cpus": 0.1}}}
    return RunContext.of("digits", overrides(tmp_path / "pipeline", **changes), str(tmp_path / "run")).plan


@pytest.fixture
def pool(plan: Plan) -> Iterator[TeacherPool]:
    assert plan.source
    with running_pool(plan.recipe, plan.source, needed=True) as running:
        assert running
        client = TeacherPool(plan.cluster.pool)
        client.use(running.replicas)
        yield client


def test_guided_answers_and_gradients_are_a_local_teachers(plan: Plan, pool: TeacherPool) -> None:
    assert plan.source
    guided = load_teacher(plan.source)
    plain, tokens = unguided(guided), plan.conditions.encode(PROMPTS)
    assert plain and tokens.dtype == torch.int64
    rng, sigma = torch.Generator().manual_seed(0), torch.tensor([0.05, 0.5, 3.0, 14.0])
    z, cotangent = torch.randn(2, 4, 4, 8, 8, generator=rng)
    x_t = z * per_sample((1 + sigma**2).sqrt(), z)
    asked = pool.ask("denoise", x_t, sigma, tokens)
    assert torch.equal(torch.tensor(asked.arrays[2]), tokens)
    (x0, gradient), (remote_x0, remote_gradient) = (
        answered(teacher, x_t, sigma, tokens, cotangent) for teacher in (LocalTeacher(guided), pool)
    )
    assert not torch.allclose(x0, plain(x_t, sigma, tokens), rtol=1e-2) and gradient.abs().max() > 1e-3
    for remote in (remote_x0, pool.collect(asked, x_t)):
        torch.testing.assert_close(remote, x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(remote_gradient, gradient, rtol=1e-6, atol=1e-6)
    near, far = (generators_gradient(plan, teacher) for teacher in (LocalTeacher(guided), pool))
    assert near.abs().max() > 0
    # SiD divides by |x - teacher's x0|, which is small at little noise, so rounding errors grow.
    torch.testing.assert_close(far / near.abs().max(), near / near.abs().max(), rtol=0, atol=5e-4)


def answered(teacher: Teacher, x_t: Tensor, sigma: Tensor, tokens: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """x0, and its gradient with respect to x_t."""
    x = x_t.clone().requires_grad_()
    x0 = teacher.submit(x, sigma, tokens).result()
    return x0.detach(), torch.autograd.grad(x0, x, cotangent)[0]


def generators_gradient(plan: Plan, teacher: Teacher) -> Tensor:
    """Of a student's first update by this teacher."""
    trainer = trainer_of(plan, teacher)
    with last_gradients() as of:
        trainer.advance(plan.first.images)
        return torch.cat([gradient.flatten() for gradient in of(trainer.nets.generator)])
