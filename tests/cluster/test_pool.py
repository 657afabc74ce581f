from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.errors import CorruptError, TrainingError
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.objectives import ADM, DM, O2MKD, TSM, Batch, Consistency, FDistill, Nets, SiD, SiDA
from msd_ray.teachers import LocalTeacher

from .conftest import SPEC, PoolOf, Start, client_of, metrics_of, question, shaken

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_output_and_gradient_are_a_local_teachers_and_no_objective_can_tell(pool_of: PoolOf) -> None:
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
    assert not pool(*question()).requires_grad
    assert_no_objective_can_tell(pool, teacher)


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


def assert_no_objective_can_tell(pool: Any, teacher: Any) -> None:
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
    memory = {"ratio": torch.ones(10)} if objective.needs.memory else {}
    nets = Nets(generator, fake, target=generator, encoder=teacher, memory=memory)
    if make := objective.needs.head:
        nets = replace(nets, head=make(nets))
    draft = objective.draft(nets, batch, rng)
    x0 = ask.submit(draft.x_t, draft.sigma, draft.condition).result()
    if follow_up := objective.needs.follow_up:
        draft = follow_up(draft, x0)
        x0 = ask.submit(draft.x_t, draft.sigma, draft.condition).result()
    objective.generator_loss(nets, draft, batch, x0, rng).total.backward()
    return torch.cat([p.grad.flatten() for p in generator.parameters() if p.grad is not None])


def test_answers_of_a_deterministic_pool_are_the_same_whoever_else_asks(start: Start) -> None:
    pool = start(shaken(SPEC), max_wait_ms=50.0)
    student = client_of(pool)
    expected = student(*question())
    for _ in range(3):
        first, *_, last = [answer.result() for answer in [student.submit(*question(n)) for n in (6, 16, 32, 6)]]
        assert torch.equal(first, expected)
        assert torch.equal(last, expected)
    (read,) = metrics_of(pool)
    assert read.forwards == read.requests == student.requests == 13


def test_requests_of_several_students_are_joined(start: Start) -> None:
    teacher, joined = shaken(SPEC), {"deterministic": False, "max_wait_ms": 50.0}
    pool = start(teacher, **joined)
    students = [client_of(pool, **joined) for _ in range(4)]
    expected = teacher(*question())
    for _ in range(3):
        for answer in [student.submit(*question()) for student in students]:
            torch.testing.assert_close(answer.result(), expected, rtol=0, atol=1e-5)
    (read,) = metrics_of(pool)
    assert (read.requests, read.images) == (12, 72)
    assert read.forwards < 12
    assert read.batch == 72 / read.forwards


def test_bf16_on_the_wire_rounds_question_and_answer(pool_of: PoolOf) -> None:
    teacher = shaken(SPEC)
    pool = pool_of(teacher, wire="bf16")
    x_t, sigma, condition = question()
    x = x_t.clone().requires_grad_()
    answer = pool(x, sigma, condition)
    rounded = teacher(x_t.bfloat16().float(), sigma, condition)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, rounded, rtol=2**-7, atol=1e-6)
    assert not torch.equal(answer, rounded)
    answer.sum().backward()
    assert x.grad.abs().max() > 1e-3


def test_a_bad_request_fails_alone_and_says_why(pool_of: PoolOf) -> None:
    teacher = shaken(SPEC)
    pool = pool_of(teacher, deterministic=False, max_wait_ms=50.0)
    x_t, sigma, condition = question()
    answers = [pool.submit(x_t, sigma, condition + extra) for extra in (0, 99, 0)]
    with pytest.raises(TrainingError, match=r"every replica of the teacher answered with an error: .*num_classes"):
        answers[1].result()  # also another process could not answer it
    for answer in (answers[0], answers[2]):
        torch.testing.assert_close(answer.result(), teacher(x_t, sigma, condition), rtol=0, atol=1e-5)


def test_what_keeps_the_teacher_from_loading_reaches_who_asked(pool_of: PoolOf, tmp_path: Path) -> None:
    pool = pool_of(shaken(SPEC))
    (tmp_path / "teacher-0" / "denoiser.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptError):
        pool(*question())
