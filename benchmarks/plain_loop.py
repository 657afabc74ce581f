"""The loop that Ray's overhead is measured against: one student trained with DM in one process, in plain PyTorch.

The maths is that of `StudentTrainer` with a teacher beside it; all that makes it a service is left out: random streams
by name, checkpoints, FID probes, curves, actors; and, without `--joint`, one pass for the samples of all steps of the
fake score. Prints one JSON object: CPU seconds of this process and wall seconds for `--images` images, counted after a
warm-up.

    python benchmarks/plain_loop.py --recipe digits --images 6400
"""

import argparse
import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.data import load_data
from msd_ray.diffusion import EDMDenoiser, Noise, one_step, per_sample
from msd_ray.networks import DenoiserSpec
from msd_ray.objectives import Optimization
from msd_ray.recipes import Recipe, load_recipe
from msd_ray.training.config import StageConfig
from msd_ray.training.ema import EMAConfig, update


def dm_stage(recipe: Recipe) -> StageConfig:
    """The recipe's first stage of distribution matching."""
    for stage in recipe.stages.values():
        if stage.objective == "dm":
            return stage
    raise SystemExit(f"recipe {recipe.name} has no stage with the objective dm")


def teacher_spec(recipe: Recipe) -> DenoiserSpec:
    data = load_data(recipe.data)
    return DenoiserSpec(recipe.network, data.shape, data.classes, recipe.noise.sigma_data)


def random_teacher(spec: DenoiserSpec) -> EDMDenoiser:
    """A teacher that nobody trained, none of whose layers is zero; the same one every time."""
    torch.manual_seed(0)
    teacher = spec.build().eval().requires_grad_(False)
    for p in teacher.parameters():
        p.add_(torch.randn_like(p), alpha=0.02)
    return teacher


def steps(
    teacher: EDMDenoiser,
    shape: tuple[int, ...],
    stage: StageConfig,
    noise: Noise,
    ema: EMAConfig,
    conditions: Tensor,
    joint: bool = False,
) -> Iterator[int]:
    """One generator update per item; yields the images seen so far. joint: one pass makes the samples of all steps of
    the fake score, as in `StudentTrainer`."""
    generator = copy.deepcopy(teacher).requires_grad_(True)
    fake, average = copy.deepcopy(generator), copy.deepcopy(teacher)
    how = stage.optimization(Optimization())
    settings: dict[str, Any] = {"betas": how.betas, "weight_decay": how.weight_decay, "fused": True}
    generator_optimizer = torch.optim.AdamW(generator.parameters(), **settings)
    fake_optimizer = torch.optim.AdamW(fake.parameters(), **settings)
    grid, levels, batch = noise.grid(), noise.levels, stage.batch

    def drawn() -> tuple[Tensor, Tensor]:
        return torch.randn(batch, *shape), conditions[torch.randint(len(conditions), (batch,))]

    def generated(drafts: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        with torch.no_grad():
            if joint:
                z, condition = (torch.cat(parts) for parts in zip(*drafts, strict=True))
                return list(one_step(generator, z, condition, noise.sigma_init).split(batch))
            return [one_step(generator, z, condition, noise.sigma_init) for z, condition in drafts]

    def noised(x: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        sigma = grid[torch.randint(first, last, (batch,))]
        return x + per_sample(sigma, x) * torch.randn_like(x), sigma

    def stepped(network: EDMDenoiser, optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), how.clip)
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (nimg + batch) / max(stage.warmup, 1))
        optimizer.step()

    nimg = 0
    while True:
        z, condition = drawn()
        x = one_step(generator, z, condition, noise.sigma_init)
        x_t, sigma = noised(x.detach(), int(0.02 * levels), int(0.98 * levels) + 1)
        with torch.no_grad():
            teacher_x0 = teacher(x_t, sigma, condition)
        drafts = [drawn() for _ in range(how.fake_steps)]
        for fake_x, (_, fake_condition) in zip(generated(drafts), drafts, strict=True):
            fake_x_t, fake_sigma = noised(fake_x, 0, levels)
            weight = per_sample(fake_sigma**-2 + noise.sigma_data**-2, fake_x)
            error = fake(fake_x_t, fake_sigma, fake_condition) - fake_x
            stepped(fake, fake_optimizer, (weight * error**2).mean(), stage.fake_lr)
        with torch.no_grad():
            fake_x0 = fake(x_t, sigma, condition)
            size = (x - teacher_x0).abs().flatten(1).mean(dim=1).clamp_min(1e-8)
            target = x - (fake_x0 - teacher_x0) / per_sample(size, x)
        stepped(generator, generator_optimizer, 0.5 * F.mse_loss(x, target), stage.generator_lr)
        nimg += batch
        update(average, generator, ema.decay(nimg, batch))
        yield nimg


def run(recipe: Recipe, images: int, warmup: int, seed: int, joint: bool) -> dict[str, float]:
    """CPU and wall seconds for `images` images after `warmup` others."""
    torch.set_num_threads(recipe.training.threads)
    spec = teacher_spec(recipe)
    teacher = random_teacher(spec)
    torch.manual_seed(seed)
    stage, conditions = dm_stage(recipe), torch.tensor([0, 1])
    seen = steps(teacher, spec.sample_shape, stage, recipe.noise, recipe.training.ema, conditions, joint)
    begin = next(n for n in seen if n >= warmup)
    wall, cpu = time.perf_counter(), time.process_time()
    end = next(n for n in seen if n >= begin + images)
    return {
        "images": end - begin,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--warmup", type=int, default=160, help="images before the clock starts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--joint", action="store_true", help="the samples of all steps of the fake score in one pass")
    parser.add_argument("--quick", action="store_true", help="320 images")
    args = parser.parse_args()
    images = 320 if args.quick else args.images
    print(json.dumps(run(load_recipe(args.recipe), images, args.warmup, args.seed, args.joint)))


if __name__ == "__main__":
    main()
