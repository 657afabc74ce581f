"""By their gradients conditions are grouped with those that want the same of the student."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from msd_ray.conditions import Classes, Owned, PartitionConfig
from msd_ray.conditions.fit import learned
from msd_ray.data import in_memory
from msd_ray.diffusion import Noise
from msd_ray.objectives import Batch, Draft, Loss, Needs, Nets, generated
from msd_ray.training.condition_gradients import WIDTH, condition_gradient
from msd_ray.training.student_spec import Extras
from msd_ray.training.student_trainer import StudentTrainer

from .cases import SPEC, Spy, original, parts, trained

GOALS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
"""What each of four classes is to become: 0 as 3, and 1 as 2."""
ALL = Owned(Classes.numbered(4), torch.arange(4))
REAL = in_memory(torch.zeros(8, 2), torch.arange(8) % 4)


@dataclass(frozen=True)
class TowardsGoals:
    noise: Noise = Noise()

    @property
    def needs(self) -> Needs:
        return Needs(teacher="none", fake=False)

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        x = generated(nets.generator, batch, self.noise)
        return Draft(x, x.detach(), x.new_zeros(len(x)), batch.condition)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        return Loss((draft.x - GOALS[batch.condition]).square().mean())


def trunk(objective: str = f"{__name__}:TowardsGoals") -> Any:
    stage = replace(SPEC.stages["dm"], objective=objective)
    spec = replace(SPEC, stages={"trunk": stage})
    made = StudentTrainer(spec, ALL, Spy(), real=REAL, extras=Extras(encoder=original(spec)))
    made.advance(stage.images)
    return made


def gradients(of: Any) -> Tensor:
    return torch.stack([condition_gradient(of, REAL, condition) for condition in range(4)])


def test_classes_that_want_the_same_come_together() -> None:
    found = gradients(trunk()).numpy()
    for seed in range(3):
        assert learned(found, PartitionConfig(2, "learned", seed), ()).router.owners == (0, 1, 1, 0)


def test_gradients_follow_from_the_trunk_alone_and_leave_it_as_it_was() -> None:
    """Also in another order, as after a process that died."""
    for name in ("dm", "adm", "consistency", "sid"):
        one, other = trunk(name), trunk(name)
        before = {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in parts(one).items()}
        found, last = gradients(one), condition_gradient(other, REAL, 3)
        assert torch.equal(found[3], last) and found.isfinite().all() and (found[0] != found[1]).any()
        after = parts(one)
        assert all(torch.equal(after[p][k], v) for p, tensors in before.items() for k, v in tensors.items())


def test_the_projection_keeps_inner_products() -> None:
    """Of the mean over the batches, which autograd gives here for all of them at once."""
    of = trunk()
    full = []
    for condition in range(4):
        z = torch.randn(8000, 2, generator=torch.Generator().manual_seed(condition))
        x = of.nets.generator(80.0 * z, torch.full((8000,), 80.0), torch.full((8000,), condition))
        loss = (x - GOALS[condition]).square().mean()
        full.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(of.nets.generator.parameters()))]))
    exact, projected = torch.stack(full).double(), gradients(of)
    error = (projected @ projected.T - exact @ exact.T).abs() / exact.norm(dim=1).max() ** 2
    assert projected.shape == (4, WIDTH) and error.max() < 0.15


def test_a_trained_student_is_measured_as_its_last_stage_trains() -> None:
    of = trained()
    assert condition_gradient(of, in_memory(torch.zeros(2, 2), torch.tensor([1, 3])), 1).norm() > 0
