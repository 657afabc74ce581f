"""Training on a GPU: speed, memory and the effect of precision, with random weights and random data.

Blocks, in this order (--only NAMES for some):
  small       parts of a teacher's update on the network of the recipe fashion, where the GPU waits for Python
  updates     DM's and ADM's update on EDM's ImageNet-64 network, ours in several precisions beside the plain one
  ours        ours of these alone (not by default)
  sampling    the teacher alone, one step beside 35 evaluations
  exact       ours in tf32 and fp32, and what deterministic algorithms cost
  memory      larger batches, with recomputation
  objectives  each objective on a small network in fp32 and bf16: images/s, and how far apart they lead
  curve       the losses of ADM on that network over many updates, in bf16 beside fp32
  profile     which kernels an update of DM on the large network spends its time in
  small-compiled, compiled  the small network, and updates and sampling of the large one, compiled

Imports neither Ray nor anything else of the service, so that it runs on a bare machine with torch and numpy.

    python benchmarks/gpu.py [--quick] [--device cpu --shape tiny] [--only small updates] [--seconds 320]

Each row is printed when it is known; one that fails or takes too long says so in `error`, and the next one follows. The
last line of standard output is one JSON object with all rows. `mfu` is of the 989 TFLOP/s that an H100 has in bf16; its
FLOPs are those of the network's passes, without what is computed twice. Of the objectives, `difference` is
|w_bf16 - w_fp32| over |w_fp32 - w_start|, and `cosine` that of the angle between the two ways from w_start. Without a
CUDA device it says so and exits with code 2; on the CPU it runs small networks only, to try the script itself.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import finish, say, spread
from gpu_adm import COMPILED, SHAPES, Adm, eager
from gpu_curve import curves
from gpu_rows import H100_BF16, Figures, Rows, fresh_memory, rows_of, seconds
from gpu_small import small, small_compiled
from torch import Tensor

from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.objectives import OBJECTIVES, Pairs
from msd_ray.teachers import LocalTeacher
from msd_ray.training import precision
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.precision import apply
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

DIGITS = DenoiserSpec(UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (1, 8, 8), 10)
COMPILING = ["small-compiled", "compiled"]
BLOCKS = ["small", "updates", "sampling", "exact", "memory", "objectives", "curve", "profile", *COMPILING]
REAL = 256  # random samples that stand for the data set


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


def make_trainer(
    size: DenoiserSpec, objective: str, precision: str, s: Settings, images: int = 0, log_every: int = 0, fakes: int = 5
) -> StudentTrainer:
    """A trainer with a teacher beside it; the same weights and data at any precision. images, log_every: in all and
    between two values of a curve, by default those that the timings take. fakes: steps of the fake score; after one the
    scores of some methods differ by little more than bf16 rounds away."""
    torch.manual_seed(s.seed)
    teacher = shaken(size, precision, s.device)
    rng = torch.Generator().manual_seed(s.seed)
    owned = Owned(Classes.numbered(size.classes), torch.arange(size.classes))
    real = in_memory(
        torch.rand(REAL, *size.sample_shape, generator=rng) * 2 - 1, torch.randint(size.classes, (REAL,), generator=rng)
    )
    images = images or s.batch * (s.warmup + s.repeats * s.updates + s.compared)
    options = {"gan_from": 0} if objective == "sida" else {}  # all terms from the first update
    stage = StageConfig(
        objective,
        images,
        s.batch,
        fake_steps=fakes,
        generator_lr=s.lr,
        fake_lr=s.lr,
        warmup=0,
        fake_first=0,
        options=options,
    )
    training = TrainingConfig(precision=precision, log_every=log_every or images)  # type: ignore[arg-type]
    spec = StudentSpec(0, s.seed, size, {"stage": stage}, training)
    pairs = Pairs(torch.randn(REAL, *size.sample_shape, generator=rng), real.all().x, real.classes).to(s.device)
    extras = Extras(encoder=teacher, pairs=pairs)
    return StudentTrainer(spec, owned, LocalTeacher(teacher), teacher.state_dict(), real, s.device, extras)


def shaken(size: DenoiserSpec, precision: str, device: torch.device) -> Any:
    """A frozen denoiser with random weights, none of whose layers is zero; drawn from torch's global state."""
    denoiser = size.build().eval().requires_grad_(False)
    for p in denoiser.parameters():  # before they are laid out otherwise, which changes what is drawn for each
        p.add_(torch.randn_like(p), alpha=0.02)
    return apply(denoiser, TrainingConfig(precision=precision)).to(device)  # type: ignore[arg-type]


def advance(trainer: StudentTrainer, images: int) -> float:
    """Seconds until `images` more are trained on and the device is idle."""
    return seconds(lambda: trainer.advance(images), trainer.device)


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


def compare(size: DenoiserSpec, objective: str, s: Settings) -> Figures:
    """How far bf16 leads from where fp32 leads, in `compared` updates; beside it fp32 done twice."""
    ends = []
    for numbers in ("fp32", "fp32", "bf16"):
        trainer = make_trainer(size, objective, numbers, s)
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


def measure(objective: str, s: Settings) -> Figures:
    """Both precisions on the small network, and their comparison."""
    row: Figures = {"objective": objective, "batch": s.batch}
    for numbers in ("fp32", "bf16"):
        row[numbers] = speed(DIGITS, objective, numbers, s)
    fp32, bf16 = (row[p]["images_per_second"]["mean"] for p in ("fp32", "bf16"))
    return row | {"bf16_against_fp32": compare(DIGITS, objective, s), "bf16_speedup": bf16 / fp32}


def updates(adm: Adm) -> None:
    for objective in ("dm", "adm"):
        adm.plain(objective)
        adm.ours(objective, eager("bf16"))


def ours(adm: Adm) -> None:
    for objective in ("dm", "adm"):
        adm.ours(objective, eager("bf16"))


def sampling(adm: Adm) -> None:
    adm.sampling(eager("bf16"))


def profile(adm: Adm) -> None:
    adm.profile("dm", eager("bf16"))


def compiled(adm: Adm) -> None:
    """ADM takes over what DM has compiled."""
    adm.sampling(COMPILED, 300)
    adm.ours("dm", COMPILED, 600)
    adm.ours("adm", COMPILED, 300)


def exact(adm: Adm) -> None:
    adm.ours("dm", eager("bf16", deterministic=True))
    adm.ours("dm", eager("tf32"))
    adm.ours("dm", eager("fp32"), 40)


def memory(adm: Adm) -> None:
    for batch in (2 * adm.batch, 4 * adm.batch):
        adm.ours("dm", eager("bf16", recompute=True), batch=batch)
        adm.ours("dm", eager("bf16"), batch=batch)


def objectives(rows: Rows, s: Settings) -> None:
    for name in OBJECTIVES:
        rows.measure(f"objective {name}", 30, lambda: measure(name, s))  # noqa: B023  called before the next


def curve(rows: Rows, s: Settings, updates: int) -> None:
    def make(precision: str, seed: int, every: int) -> StudentTrainer:
        return make_trainer(DIGITS, "adm", precision, replace(s, lr=2e-4, seed=seed), updates * s.batch, every, 1)

    rows.measure(f"loss curves of {updates} updates", 300, lambda: curves(make, updates, s.batch))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=[*BLOCKS, "ours"], default=BLOCKS, metavar="BLOCK")
    parser.add_argument("--shape", choices=SHAPES, help="of the large network; tiny by default on the CPU")
    parser.add_argument("--large-batch", type=int, default=32, help="of the large network")
    parser.add_argument("--seconds", type=float, default=600, help="after which no row is begun or gone on with")
    parser.add_argument("--batch", type=int, default=16, help="of the objectives' small network")
    parser.add_argument("--warmup", type=int, default=1, help="generator updates before the first timing")
    parser.add_argument("--updates", type=int, default=5, help="generator updates per timing")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compared", type=int, default=5, help="updates after which bf16 is compared with fp32")
    parser.add_argument("--curve", type=int, default=500, help="updates of the loss curves")
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", action="store_true", help="for the script itself: measure in this process")
    parser.add_argument("--quick", action="store_true", help="short timings")
    args = parser.parse_args()
    args.shape = args.shape or ("tiny" if args.device == "cpu" else "imagenet64")
    args.small_updates = 50 if args.device != "cpu" else 1
    if args.quick:
        args.batch, args.warmup, args.updates, args.repeats, args.compared = 4, 1, 1, 2, 1
        args.small_updates = min(args.small_updates, 20)
        args.curve = min(args.curve, 20 if args.device == "cpu" else args.curve)
    return args


def main() -> None:
    args = arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        say("no CUDA device here; --device cpu tries the script with small networks")
        raise SystemExit(2)
    if args.inside:
        measured(args)
        return
    end, rows = time.monotonic() + args.seconds, list[Figures]()
    first = [block for block in args.only if block not in COMPILING]
    for blocks in [first, *([block] for block in COMPILING if block in args.only)]:
        left = end - time.monotonic()
        if blocks and left > 5:
            own = [sys.executable, __file__, *sys.argv[1:], "--inside", "--seconds", str(left - 3), "--only", *blocks]
            rows += rows_of(own, left)
    facts = {"shape": args.shape, "peak_flops": H100_BF16, "seeds": [args.seed]}
    finish("gpu", {**facts, "rows": rows})


def measured(args: argparse.Namespace) -> None:
    """Measures the blocks in this process."""
    device = torch.device(args.device)
    if device.type == "cpu":
        precision.BACKEND = "eager"  # compiles nothing, and goes the same way
    s = Settings(device, args.batch, args.warmup, args.updates, args.repeats, args.compared, args.lr, args.seed)
    rows = Rows(device, args.seconds)
    adm = Adm(rows, args.shape, args.large_batch)
    blocks: dict[str, Callable[[], None]] = {
        "small": lambda: small(rows, args.small_updates),
        "updates": lambda: updates(adm),
        "ours": lambda: ours(adm),
        "sampling": lambda: sampling(adm),
        "exact": lambda: exact(adm),
        "memory": lambda: memory(adm),
        "objectives": lambda: objectives(rows, s),
        "curve": lambda: curve(rows, s, args.curve),
        "profile": lambda: profile(adm),
        "small-compiled": lambda: small_compiled(rows, args.small_updates),
        "compiled": lambda: compiled(adm),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    rows.measure("device", 60, lambda: {"device": name, "cuda": torch.version.cuda, "torch": torch.__version__})
    if {"updates", "ours", "sampling", "exact", "memory", "profile", "compiled"} & set(args.only):
        adm.count()
    for block in args.only:
        blocks[block]()


if __name__ == "__main__":
    main()
