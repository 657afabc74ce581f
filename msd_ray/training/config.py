"""What a recipe says of training."""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from msd_ray.objectives import SUM, Optimization
from msd_ray.ranges import BelowOne, Count, CountOrNone, Images, ImagesOrNone, Rate, Threads, Weight, within
from msd_ray.training.ema import EMAConfig
from msd_ray.training.optimizer_state import StateKind


@dataclass(frozen=True)
class StageConfig:
    """One stage of a student's training.

    objective: which method (msd_ray.objectives). images: generator images of the stage, the clock of everything.
    batch: images per update. warmup: images over which the learning rates rise from 0. options: fields of the
    objective, such as its loss weights. shared: whether one student trains it for all conditions, which the others then
    branch off from; a number: so many students, each for a group of parts; auto: whether it makes a denoiser for the
    students to start from. afresh: what of the stage before does not go
    on; auto: the optimizers, but nothing where a shared stage of the same objective comes before. The others are
    those of `Optimization`, None for what the method's authors have.
    """

    objective: str = "dm"
    images: Images = 1_000_000
    batch: Count = 64
    generator_lr: Rate = 2e-6
    fake_lr: Rate = 2e-6
    fake_steps: CountOrNone | None = None
    optimizer: Literal["adamw", "adam", "radam"] | None = None
    betas: tuple[BelowOne, BelowOne] | None = None
    weight_decay: Weight | None = None
    warmup: ImagesOrNone = 32_000
    fake_first: ImagesOrNone | None = None
    clip: Weight | None = None
    fake_clip_value: Weight | None = None
    options: dict[str, Any] = field(default_factory=dict)
    shared: bool | Annotated[int, within(ge=2, le=10**5)] | Literal["auto"] = "auto"
    afresh: tuple[Literal["optimizers", "average", "fake_score", "discriminator"], ...] | Literal["auto"] = "auto"

    @property
    def groups(self) -> int:
        """So many students train it together; 0 where each trains it alone, or this is still open."""
        return 0 if self.shared == "auto" else int(self.shared)

    @property
    def method(self) -> tuple[Any, ...]:
        """The objective, and what makes another of it, the terms of a sum or the steps of a round of progressive
        distillation: stages that have these alike can go on from each other."""
        if self.objective == SUM:
            return self.objective, *sorted(self.options.get("terms", ()))
        return self.objective, self.options.get("steps")

    def __post_init__(self) -> None:
        if (self.fake_first or 0) >= self.images:
            raise ValueError(f"fake_first ({self.fake_first}) must be below images ({self.images})")
        if self.images < self.batch or self.images % self.batch:
            raise ValueError(f"images ({self.images}) must be a positive multiple of batch ({self.batch})")

    def optimization(self, method: Optimization) -> Optimization:
        """The stage's own where it has one, the method's otherwise."""
        own = {f.name: getattr(self, f.name) for f in fields(method)}
        return replace(method, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class TrainingConfig:
    """precision: of the networks' mathematics; tf32 (on GPUs) and bf16 (autocast) round more than fp32 and are faster;
    weights that train are fp32 always. compile: the networks' blocks by torch.compile. replay: on a GPU, records passes
    without a gradient whose time goes into launching kernels, and replays them (CUDA graphs). recompute: keeps less of
    the forward pass, and computes it again in the backward pass. deterministic: on a GPU, whether the same numbers must
    come out each time. optimizer_state: the averages of Adam beside the weights, in the host's memory, or in 8 bits.
    threads: torch threads per student on a CPU.

    log_every, checkpoint_every: in images; a student's segment between two reports to the driver is the latter.
    anchors: whether the levels of a generator's further steps (noise.steps) are those of sampling while it trains as
    well, or drawn at random for each sample. share_images: the stages' images are those of all students together, each
    of which trains on its share; so ensembles of any size cost the same.
    shards: equal parts that every batch is made of, each with random numbers of its own; up to so many workers can
    share a student. sharding: whether each of these workers has all weights, or only a piece of each. keep: newest
    checkpoints kept per student. max_skipped: updates in a row that may be skipped because a gradient is not finite;
    one more, and the student has failed. trace: so many updates of each student are recorded, kernel by kernel.
    """

    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    replay: bool = False
    recompute: bool = False
    deterministic: bool = True
    optimizer_state: StateKind = "fp32"
    threads: Threads = 1
    shards: Count = 1
    sharding: Literal["none", "full"] = "none"
    ema: EMAConfig = field(default_factory=EMAConfig)
    log_every: Images = 10_000
    checkpoint_every: Images = 100_000
    anchors: Literal["fixed", "random"] = "fixed"
    share_images: bool = False
    keep: Count = 2
    max_skipped: CountOrNone = 10
    trace: CountOrNone = 0


ROUNDING = ("compile", "replay", "recompute", "deterministic", "optimizer_state", "sharding", "trace")
"""What of `TrainingConfig` changes how numbers are rounded or nothing at all: a run may go on with other values."""
