"""One student from one teacher, end to end in one flat file: `python examples/one_student.py` (about a minute, CPU).

This is the whole method without the machinery around it: no Ray, no recipes, no checkpoints. `msd-ray train` does the
same with K students, each on its own part of the classes. Read it from top to bottom.

The data are 2-D points of 8 classes, each class a small ring (the toy of MSD, arXiv 2410.23274, section 5.1).
  1. Train a teacher: a diffusion model that needs 35 network evaluations per sample.
  2. Distil it by distribution matching (DMD2, arXiv 2405.14867) into a generator that needs one.
  3. Compare what both make of the same input noise.
"""

import argparse
import copy

import torch
from torch import Tensor, nn

from msd_ray.data import DataConfig, load_data
from msd_ray.diffusion import Noise, edm_loss, heun, nfe_of_heun, one_step
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.objectives import DM, Batch, Nets

FAKE_STEPS = 5  # fake-score updates per generator update: DMD2's two time scales
BATCH = 256


def main() -> tuple[float, float]:
    """Returns the l1 distance between student and teacher before and after the distillation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=51_200, help="generator images of the distillation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few seconds: smaller network, shorter training")
    args = parser.parse_args()
    torch.set_num_threads(1)  # networks this small are slower on many threads
    torch.manual_seed(args.seed)  # the initial weights come from the global random state, all else from `rng`
    rng = torch.Generator().manual_seed(args.seed)

    data = load_data(DataConfig("toy2d", options={"classes": 8}))
    x, y = data.train.all().x, data.train.classes
    noise = Noise()  # Karras grid from 0.002 to 80; the generator starts at sigma_init = 80
    blocks, teacher_steps, images = (2, 200, 10_240) if args.quick else (4, 2000, args.images)
    spec = DenoiserSpec(MLPConfig(width=64, blocks=blocks), data.shape, data.classes, noise.sigma_data)

    # 1. The teacher. D(x_t; sigma, c) learns to estimate the clean x0 at every noise level (EDM, equation 8).
    teacher = spec.build()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, teacher_steps)
    for step in range(1, teacher_steps + 1):
        chosen = torch.randint(len(x), (BATCH,), generator=rng)
        loss = edm_loss(teacher, x[chosen], y[chosen], rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % (teacher_steps // 4) == 0:
            print(f"teacher  step {step:5d}  edm loss {loss.item():.4f}")
    teacher.eval().requires_grad_(False)

    # 2. The student. Three networks start as copies of the teacher's weights: the teacher itself (frozen; its score is
    # "real"), the generator G, and the fake score, which will follow the distribution of what G makes.
    generator = copy.deepcopy(teacher).requires_grad_(True)
    fake = copy.deepcopy(teacher).requires_grad_(True)
    # What one keeps is the average of G's weights over time, since single weights jitter.
    ema = copy.deepcopy(generator).requires_grad_(False)
    z, c = draw_inputs(args.seed)
    goal = heun(teacher, z, c, noise)  # what the teacher's ODE makes of the inputs on which the two are compared
    before = distance(one_step(generator, z, c, noise.sigma_init), goal)
    print(f"student  before        l1 to the teacher {before:.4f}")

    nets, objective = Nets(generator, fake), DM(noise)
    # The fake score learns faster than G, on top of its five steps: it has to keep up with what G makes.
    generator_optimizer = torch.optim.AdamW(generator.parameters(), lr=2e-4, betas=(0.9, 0.999), weight_decay=0.0)
    fake_optimizer = torch.optim.AdamW(fake.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)

    updates = images // BATCH
    for step in range(1, updates + 1):
        # G makes x = G(z, c) in one step; x_t = x + sigma n is the question that the teacher is asked.
        batch = draw_batch(data.classes, data.shape, rng)
        draft = objective.draft(nets, batch, rng)
        teacher_x0 = teacher(draft.x_t, draft.sigma, draft.condition)  # in the service this runs elsewhere, meanwhile

        # The fake score must know where G's samples are before it can say how G should move, so it takes several
        # denoising steps (DMD2, section 4.2) on samples of the present G, which it does not change.
        for _ in range(FAKE_STEPS):
            fake_batch = draw_batch(data.classes, data.shape, rng)
            with torch.no_grad():
                fake_x = one_step(generator, fake_batch.z, fake_batch.condition, noise.sigma_init)
            fake_loss = objective.fake_loss(nets, fake_x, fake_batch, rng).total
            take_step(fake_optimizer, fake, fake_loss)

        # The difference of the two scores says how to move x towards the teacher's distribution (DMD2, equation 2).
        # It enters as a constant: no gradient flows through either network, only through x into G.
        loss = objective.generator_loss(nets, draft, batch, teacher_x0, rng).total
        take_step(generator_optimizer, generator, loss)
        decay = min(0.99, 1 - 1 / (step + 1))
        for mean, value in zip(ema.parameters(), generator.parameters(), strict=True):
            mean.lerp_(value.detach(), 1 - decay)
        if step % max(1, updates // 8) == 0:
            now = distance(one_step(ema, z, c, noise.sigma_init), goal)
            print(f"student  {step * BATCH:6d} images  dm {loss.item():.4f}  fake {fake_loss.item():.4f}  l1 {now:.4f}")

    # 3. The outcome: one evaluation against the teacher's many, on the same noise. DM compares distributions and not
    # pairs, so the l1 distance falls first and may drift a little later; the first DMD held it with a regression term.
    made = one_step(ema, z, c, noise.sigma_init)
    after = distance(made, goal)
    print(f"l1 to the teacher: {before:.4f} before, {after:.4f} after; evaluations per sample: {nfe_of_heun(18)} -> 1")
    print("class   data mean          student mean")
    for k in range(data.classes):
        real, ours = x[y == k].mean(dim=0), made[c == k].mean(dim=0)
        print(f"{k:5d}   ({real[0]:+.3f}, {real[1]:+.3f})   ({ours[0]:+.3f}, {ours[1]:+.3f})")
    return before, after


def draw_batch(classes: int, shape: tuple[int, ...], rng: torch.Generator) -> Batch:
    """Noise and classes for the generator. A student of MSD draws only the classes that it owns; this one owns all."""
    return Batch(torch.randn(BATCH, *shape, generator=rng), torch.randint(classes, (BATCH,), generator=rng))


def draw_inputs(seed: int) -> tuple[Tensor, Tensor]:
    """The inputs on which student and teacher are compared: the same every time."""
    z = torch.randn(1024, 2, generator=torch.Generator().manual_seed(seed + 1))
    return z, torch.arange(1024) % 8


def take_step(optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()


@torch.no_grad()
def distance(made: Tensor, goal: Tensor) -> float:
    """Mean l1 distance between what two samplers make of the same inputs (the metric of MSD's toy)."""
    return (made - goal).abs().sum(dim=1).mean().item()


if __name__ == "__main__":
    main()
