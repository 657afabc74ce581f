import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.objectives import ADM, DM, O2MKD, TSM, Batch, Consistency, FDistill, Nets, SiD, SiDA
from msd_ray.runs.teacher import keep_teacher
from msd_ray.storage import Store
from msd_ray.teachers import LocalTeacher
from msd_ray.training.state import State

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
SPEC = DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (1, 8, 8), 10)


def shaken(spec: DenoiserSpec, scale: float = 0.1) -> Any:
    """A denoiser none of whose layers is zero."""
    torch.manual_seed(0)
    denoiser = spec.build().eval().requires_grad_(False)
    for p in denoiser.parameters():
        p.copy_(torch.randn_like(p) * scale)
    return denoiser


PoolOf = Callable[..., Any]


@pytest.fixture
def pool_of(tmp_path: Path) -> Iterator[PoolOf]:
    """pool_of(denoiser, spec, size) starts a pool that holds this teacher."""
    from msd_ray.cluster.pool import TeacherPool, start_pool, stop_pool

    started: list[Any] = []

    def start(denoiser: Any, spec: DenoiserSpec, size: int = 1) -> Any:
        store = Store(str(tmp_path / "teacher"))
        facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
        keep_teacher(store, spec, State({"ema": denoiser.state_dict()}, facts))
        actors = start_pool(size, 0.1, 0.0, store, "fp32")
        started.extend(actors)
        return TeacherPool(actors)

    yield start
    stop_pool(started)


def question(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    x_t = torch.randn(n, 1, 8, 8, generator=rng)
    return x_t, torch.rand(n, generator=rng) * 5 + 0.01, torch.arange(n) % 10


def test_output_and_gradient_equal_the_local_teachers(pool_of: PoolOf) -> None:
    teacher = shaken(SPEC)
    pool = pool_of(teacher, SPEC, size=2)
    x_t, sigma, condition = question()
    cotangent = torch.randn_like(x_t)
    results = []
    for ask in (LocalTeacher(teacher), pool, pool):  # the second time another replica answers
        x = x_t.clone().requires_grad_()
        x0 = ask.submit(x, sigma, condition).result()
        (x0 * cotangent).sum().backward()
        results.append((x0.detach(), x.grad))
    (x0, gradient), *others = results
    assert gradient.abs().max() > 1e-3
    for remote_x0, remote_gradient in others:
        torch.testing.assert_close(remote_x0, x0, rtol=0, atol=1e-6)
        torch.testing.assert_close(remote_gradient, gradient, rtol=0, atol=1e-6)
    assert pool.cpu_seconds > 0


def test_gradient_flows_through_a_chain_of_which_the_teacher_is_one_link(pool_of: PoolOf) -> None:
    spec = DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 3)
    teacher = shaken(spec)
    pool = pool_of(teacher, spec)
    theta = torch.randn(5, 2, requires_grad=True)
    sigma, condition = torch.full((5,), 0.7), torch.tensor([0, 1, 2, 0, 1])
    gradients = []
    for denoise in (teacher, pool):
        theta.grad = None
        denoise(theta.sin() * 2, sigma, condition).pow(2).sum().backward()
        gradients.append(theta.grad.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-6)


def test_no_gradient_is_asked_for_where_none_is_needed(pool_of: PoolOf) -> None:
    pool = pool_of(shaken(SPEC), SPEC)
    assert not pool(*question()).requires_grad


def test_no_objective_can_tell_the_pool_from_a_local_teacher(pool_of: PoolOf) -> None:
    teacher = shaken(SPEC)
    pool = pool_of(teacher, SPEC)
    for objective in [DM(), ADM(), SiD(), SiDA(), FDistill(), TSM(), Consistency(), O2MKD()]:
        near, far = (generator_gradient(objective, teacher, ask) for ask in (LocalTeacher(teacher), pool))
        assert near.abs().max() > 0, objective
        # SiD divides by |x - teacher's x0|, which is small at little noise, so rounding errors grow.
        torch.testing.assert_close(far / near.abs().max(), near / near.abs().max(), rtol=0, atol=5e-4)


def generator_gradient(objective: Any, teacher: Any, ask: Any) -> torch.Tensor:
    """Of a generator and a fake score that are both not quite the teacher."""
    generator, fake = shaken(SPEC, 0.09).requires_grad_(True), shaken(SPEC, 0.11)
    rng, condition = torch.Generator().manual_seed(3), torch.arange(4)
    z, real = torch.randn(2, 4, 1, 8, 8, generator=rng)
    batch = Batch(z, condition, real, condition)
    nets = Nets(
        generator, fake, None, generator, teacher, {name: torch.ones(n) for name, n in objective.needs.memory.items()}
    )
    if make := objective.needs.head:
        nets = replace(nets, head=make(nets))
    draft = objective.draft(nets, batch, rng)
    x0 = ask.submit(draft.x_t, draft.sigma, draft.condition).result()
    objective.generator_loss(nets, draft, batch, x0, rng).total.backward()
    return torch.cat([p.grad.flatten() for p in generator.parameters() if p.grad is not None])


@pytest.mark.timeout(120)
def test_a_killed_replica_is_replaced_and_its_request_answered(pool_of: PoolOf) -> None:
    pool = pool_of(shaken(SPEC), SPEC)
    expected = pool(*question())
    for _ in range(3):
        before = {p.pid for p in _teacher_processes()}
        assert before
        answer = pool.submit(*question())
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert torch.equal(answer.result(), expected)
        deadline = time.monotonic() + 30
        while not {p.pid for p in _teacher_processes()} - before:
            assert time.monotonic() < deadline, "no new teacher process came"
            time.sleep(0.2)


def _teacher_processes() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if "ray::TeacherActor" in " ".join(p.info["cmdline"] or [])]
