"""The gradient of a student's loss on one condition alone, by which conditions are compared."""

import torch
from torch import Tensor

from msd_ray.conditions import Owned
from msd_ray.data import Split
from msd_ray.errors import UserError
from msd_ray.rng import stream
from msd_ray.training.batches import Batches, Draw
from msd_ray.training.gpu_memory import FOR_STUDENTS, enough_memory
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

WIDTH = 1024
"""Numbers that a gradient is projected to: inner products are then right to 1 / sqrt(WIDTH) of the norms."""
SAMPLES = 256
"""Of each condition, at least."""


def batches_of_each(spec: StudentSpec) -> tuple[int, int]:
    """How many batches the gradient of a condition is the mean of, and samples of each: shards as the last stage has
    them."""
    last = list(spec.stages.values())[-1]
    size = last.batch // spec.shards
    return -(-SAMPLES // size), size


def condition_gradient(trainer: StudentTrainer, real: Split, condition: int) -> Tensor:
    """The generator's gradient of the loss on samples of one condition, projected to [WIDTH], float64, on the CPU.

    trainer: at the end of its last stage, which stays as it is. real: samples of all its conditions. The noise is the
    same for each condition, and so is the projection. Raises UserError where the data lack the condition, TrainingError
    where the GPU's memory is not enough.
    """
    spec, ids = trainer.spec, torch.tensor([condition])
    owned, real = Owned(trainer.owned.conditions, ids), real.only(ids)
    if not len(real):
        name = owned.conditions.labels([condition])[0]
        raise UserError(f"partition.kind: learned needs a sample of every class, and the data have none of {name}")
    batches = Batches(spec, owned, real, None, trainer.device)
    count, size = batches_of_each(spec)
    with enough_memory(f"student {spec.index}", FOR_STUDENTS):
        each = [_projected(trainer, _gradient(trainer, batches, number, size)) for number in range(count)]
    return torch.stack(each).mean(dim=0).cpu()


def _gradient(trainer: StudentTrainer, batches: Batches, number: int, size: int) -> tuple[Tensor, ...]:
    """Of one batch, for each of the generator's weights that train."""
    name, stage = list(trainer.spec.stages.items())[-1]
    objective, nets = trainer.spec.objective(name), trainer.nets
    needs, step = objective.needs, stage.images // stage.batch
    asked = Draw(f"partition {number}", 0, trainer.nimg, size, needs, step, stage.images)
    batch, rng = batches.draw(asked, stage.batch)
    draft, teacher_x0 = objective.draft(nets, batch, rng), None
    if needs.teacher != "none":
        teacher_x0 = trainer.teacher.submit(draft.x_t, draft.sigma, draft.condition).result()
    if needs.follow_up:
        assert teacher_x0 is not None
        draft = needs.follow_up(draft, teacher_x0)
        teacher_x0 = trainer.teacher.submit(draft.x_t, draft.sigma, draft.condition).result()
    loss = objective.generator_loss(nets, draft, batch, teacher_x0, rng)
    weights = [p for p in nets.generator.parameters() if p.requires_grad]
    return torch.autograd.grad(loss.total, weights, allow_unused=True, materialize_grads=True)


def _projected(trainer: StudentTrainer, gradients: tuple[Tensor, ...]) -> Tensor:
    """A count sketch (arXiv 0902.2206): each weight is added to one place, with one sign."""
    found = torch.zeros(WIDTH, dtype=torch.float64, device=trainer.device)
    for number, gradient in enumerate(gradients):
        rng, n = stream(trainer.spec.seed, "projection", number, device=trainer.device), gradient.numel()
        place = torch.randint(WIDTH, (n,), generator=rng, device=trainer.device)
        sign = 2 * torch.randint(2, (n,), generator=rng, device=trainer.device) - 1
        found.index_add_(0, place, sign * gradient.flatten().double())
    return found
