"""Training on a GPU: speed, memory and the effect of bf16, for each objective and two sizes of network.

Measures StudentTrainer.advance with a local random teacher and random data: images per second and peak memory in fp32
and in bf16, whether all weights stay finite, and how far the weights of bf16 are from those of fp32 after the same
updates with the same random numbers. Imports neither Ray nor anything else of the service, so that it runs on a bare
machine with torch and numpy.

    python benchmarks/gpu.py [--quick] [--device cpu]

The last line of standard output is one JSON object. `difference` is |w_bf16 - w_fp32| over |w_fp32 - w_start|, and
`cosine` that of the angle between the two ways from w_start. Without a CUDA device it says so and exits with code 2;
on the CPU it runs the small network only, to try the script itself.
"""

import argparse
import gc
import time
from dataclasses import dataclass
from typing import Any

import torch
from common import finish, say, spread
from torch import Tensor

from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.errors import TrainingError
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.objectives import OBJECTIVES, Pairs
from msd_ray.teachers import LocalTeacher
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.precision import apply
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

DIGITS = DenoiserSpec(UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (1, 8, 8), 10)
IMAGENET64 = DenoiserSpec(UNetConfig(channels=128, multipliers=(1, 2, 2, 4), blocks=2, dropout=0.0), (3, 64, 64), 1000)
SIZES = {"digits": DIGITS, "imagenet64": IMAGENET64}
REAL = 256  # random samples that stand for the data set
Figures = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """updates: of the generator, per timing. repeats: timings. compared: updates after which weights are compared."""

    device: torch.device
    batch: int
    warmup: int
    updates: int
    repeats: int
    compared: int
    lr: float
    seed: int


def make_trainer(size: DenoiserSpec, objective: str, precision: str, s: Settings) -> StudentTrainer:
    """A trainer with a teacher beside it; the same weights and data at any precision."""
    torch.manual_seed(s.seed)
    teacher = shaken(size, precision, s.device)
    rng = torch.Generator().manual_seed(s.seed)
    owned = Owned(Classes.numbered(size.classes), torch.arange(size.classes))
    real = in_memory(
        torch.rand(REAL, *size.sample_shape, generator=rng) * 2 - 1, torch.randint(size.classes, (REAL,), generator=rng)
    )
    images = s.batch * (s.warmup + s.repeats * s.updates + s.compared)
    options = {"gan_from": 0} if objective == "sida" else {}  # all terms from the first update
    stage = StageConfig(
        objective,
        images,
        s.batch,
        fake_steps=5,  # for all methods: after one step the scores differ by little more than bf16 rounds away
        generator_lr=s.lr,
        fake_lr=s.lr,
        warmup=0,
        fake_first=0,
        options=options,
    )
    training = TrainingConfig(precision=precision, log_every=images)  # type: ignore[arg-type]
    spec = StudentSpec(0, s.seed, size, {"stage": stage}, training)
    pairs = Pairs(torch.randn(REAL, *size.sample_shape, generator=rng), real.all().x, real.classes).to(s.device)
    extras = Extras(encoder=teacher, pairs=pairs)
    return StudentTrainer(spec, owned, LocalTeacher(teacher), teacher.state_dict(), real, s.device, extras)


def shaken(size: DenoiserSpec, precision: str, device: torch.device) -> Any:
    """A frozen denoiser with random weights, none of whose layers is zero; drawn from torch's global state."""
    training = TrainingConfig(precision=precision)  # type: ignore[arg-type]
    denoiser = apply(size.build(), training).eval().requires_grad_(False)
    for p in denoiser.parameters():
        p.add_(torch.randn_like(p), alpha=0.02)
    return denoiser.to(device)


def advance(trainer: StudentTrainer, images: int) -> float:
    """Seconds until `images` more are trained on and the device is idle."""
    wait(trainer.device)
    start = time.perf_counter()
    trainer.advance(images)
    wait(trainer.device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flat(trainer: StudentTrainer) -> Tensor:
    """The generator's weights in one vector, on the CPU."""
    return torch.cat([p.detach().flatten().double().cpu() for p in trainer.nets.generator.parameters()])


def speed(size: DenoiserSpec, objective: str, precision: str, s: Settings) -> Figures:
    """images/s over the repeats, peak memory, and whether the weights are finite."""
    fresh_memory(s.device)
    trainer = make_trainer(size, objective, precision, s)
    advance(trainer, s.warmup * s.batch)
    rates = [s.updates * s.batch / advance(trainer, s.updates * s.batch) for _ in range(s.repeats)]
    peak = torch.cuda.max_memory_allocated(s.device) / 2**20 if s.device.type == "cuda" else None
    finite = bool(flat(trainer).isfinite().all())
    return {"images_per_second": spread(rates), "peak_mib": peak, "finite": finite}


def fresh_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def compare(size: DenoiserSpec, objective: str, s: Settings) -> Figures:
    """How far bf16 leads from where fp32 leads, in `compared` updates; beside it fp32 done twice."""
    ends = []
    for precision in ("fp32", "fp32", "bf16"):
        trainer = make_trainer(size, objective, precision, s)
        start = flat(trainer)
        trainer.advance(s.compared * s.batch)
        ends.append(flat(trainer) - start)
        del trainer
    way, again, bf16 = ends
    return {
        "updates": s.compared,
        "difference": float((bf16 - way).norm() / way.norm()),
        "cosine": float(torch.dot(bf16, way) / (bf16.norm() * way.norm())),
        "difference_of_fp32_done_twice": float((again - way).norm() / way.norm()),
    }


def measure(size_name: str, objective: str, s: Settings) -> Figures:
    """Both precisions and their comparison; an objective that diverges or does not fit says so in `error`."""
    size, row = SIZES[size_name], {"size": size_name, "objective": objective, "batch": s.batch}
    row["parameters"] = size.parameters()
    try:
        for precision in ("fp32", "bf16"):
            row[precision] = speed(size, objective, precision, s)
            say(f"{size_name} {objective} {precision}: {row[precision]['images_per_second']['mean']:.1f} images/s")
        row["bf16_against_fp32"] = compare(size, objective, s)
        fp32, bf16 = (row[p]["images_per_second"]["mean"] for p in ("fp32", "bf16"))
        row["bf16_speedup"] = bf16 / fp32
    except (TrainingError, torch.OutOfMemoryError) as error:
        row["error"] = str(error).splitlines()[0]
        say(f"{size_name} {objective}: {row['error']}")
    return row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=3, help="generator updates before the first timing")
    parser.add_argument("--updates", type=int, default=20, help="generator updates per timing")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compared", type=int, default=20, help="updates after which bf16 is compared with fp32")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two short timings each")
    args = parser.parse_args()
    if args.quick:
        args.batch, args.warmup, args.updates, args.repeats, args.compared = 4, 1, 1, 2, 1
    return args


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        say("no CUDA device here; --device cpu tries the script with the small network")
        raise SystemExit(2)
    settings = Settings(device, args.batch, args.warmup, args.updates, args.repeats, args.compared, args.lr, args.seed)
    sizes = ["digits"] if device.type == "cpu" else list(SIZES)
    rows = [measure(size, objective, settings) for size in sizes for objective in OBJECTIVES]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts = {"device": name, "cuda": torch.version.cuda, "tf32": torch.backends.cuda.matmul.allow_tf32}
    finish("gpu", {**facts, "seeds": [args.seed], "rows": rows})


if __name__ == "__main__":
    main()
