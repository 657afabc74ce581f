"""Multi-guidance distillation against a re-derivation, how weights are told, and what they lead to."""

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.networks.embedding import as_vectors, told
from msd_ray.objectives import Batch, MultiGuidance, Nets

from .cases import NOISE, B, Case, at_levels, denoised, generator_loss, generator_parameters, karras, rng, same_loss


def expected(case: Case, steps: int, lowest: float, highest: float) -> Tensor:
    source = rng()
    drawn = torch.randint(steps, (B,), generator=source).tolist()
    sigmas = [karras(steps - 1 - i, steps) for i in drawn]
    x_t = at_levels(case.real, sigmas, source)
    weights = lowest + torch.rand(B, generator=source, dtype=torch.float64) * (highest - lowest)
    vectors = torch.eye(3, dtype=torch.float64)[case.real_condition]
    of_class = denoised(case.teacher, x_t, sigmas, vectors).detach()
    of_none = denoised(case.teacher, x_t, sigmas, 0 * vectors).detach()
    losses = []
    for i, (w, sigma) in enumerate(zip(weights.tolist(), sigmas, strict=True)):
        said = denoised(case.nets.generator, x_t[i : i + 1], [sigma], w * vectors[i : i + 1])[0]
        target = (1 - w) * of_none[i] + w * of_class[i]
        losses.append(max(1 / sigma**2, 1) * ((said - target) ** 2).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("lowest", "highest"), [(1.0, 4.0), (0.0, 0.5), (2.0, 2.0)])
@pytest.mark.parametrize("steps", [2, 8])
def test_it_is_as_derived(case: Case, steps: int, lowest: float, highest: float) -> None:
    loss = generator_loss(case, MultiGuidance(NOISE, lowest, highest, steps, highest)).total
    same_loss(loss, expected(case, steps, lowest, highest), generator_parameters(case))


def test_at_the_weight_1_a_network_is_told_the_class_alone(case: Case) -> None:
    question = case.real, torch.full((B,), 0.7, dtype=torch.float64)
    condition, ones = case.real_condition, torch.ones(B, dtype=torch.float64)
    assert torch.equal(case.teacher(*question, told(condition, ones, 3)), case.teacher(*question, condition))
    assert torch.equal(told(torch.tensor([1, 2]), torch.tensor([2.5, 0]), 3), torch.tensor([[0, 2.5, 0], [0, 0, 0]]))


MEANS = torch.tensor([[0.6, 0.0], [-0.4, 0.5], [0.0, -0.7]], dtype=torch.float64)


def knows(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """A teacher, or a student, that points at the mean of the class, at 0 for no class, as far as it is told."""
    return as_vectors(condition, 3).double() @ MEANS


def test_it_rests_where_the_student_says_what_the_guided_teacher_does() -> None:
    """For these means the guided answer is the weight times the mean."""
    lean = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    class Student(EDMDenoiser):
        def __init__(self) -> None:
            super().__init__(None, classes=3)  # type: ignore[arg-type]

        def forward(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
            return knows(x_t, sigma, condition) + lean + wrong

    def gradient() -> Tensor:
        objective, source, student = MultiGuidance(NOISE), rng(), Student()
        z, c = torch.randn(64, 2, generator=source, dtype=torch.float64), torch.arange(64) % 3
        batch = Batch(z, c, z, c)
        first = objective.draft(Nets(student, student), batch, source)
        of_class = knows(first.x_t, first.sigma, first.condition)
        assert objective.needs.follow_up
        second = objective.needs.follow_up(first, of_class)
        x0 = knows(second.x_t, second.sigma, second.condition)
        return torch.autograd.grad(
            objective.generator_loss(Nets(student, student), second, batch, x0, source).total, lean
        )[0]

    wrong = 0.0
    assert gradient().abs().max() < 1e-9
    wrong = 0.5
    assert (gradient() > 0.5).all()
