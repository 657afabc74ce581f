"""Small students of every objective, a teacher that notes what it is asked, and comparisons of what became of them."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.diffusion import EDMDenoiser, per_sample
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.objectives import OBJECTIVES, Pairs
from msd_ray.teachers import Answer
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.ema import EMAConfig
from msd_ray.training.process_group import ALONE, ProcessGroup
from msd_ray.training.state import Tensors
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

OPTIONS: dict[str, dict[str, Any]] = {
    "consistency": {"levels": 6},
    "gdd": {"r1_every": 2},
    "sida": {"gan_from": 8},
    "uni-instruct": {"gan_from": 8},
}
BATCH = 8
DM = StageConfig("dm", images=40, batch=BATCH, generator_lr=1e-3, fake_lr=2e-3, fake_steps=2, warmup=16, fake_first=0)
ADM = replace(DM, objective="adm", images=24, generator_lr=5e-4)
CONDITIONS = (1, 3)
SPEC = StudentSpec(
    index=0,
    seed=5,
    denoiser=DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 4),
    stages={"dm": DM, "adm": ADM},
    training=TrainingConfig(log_every=16, ema=EMAConfig(halflife=20, rampup=0.5)),
)
OWNED = Owned(Classes.numbered(4), torch.tensor(CONDITIONS))
REAL = in_memory(torch.arange(20.0).reshape(10, 2) / 20, torch.tensor(CONDITIONS * 5))


@dataclass
class Spy:
    """A teacher of data N(mean, 0.3^2 I) that notes what it is asked and in which order; reading waits for `result`."""

    mean: Tensor = field(default_factory=lambda: torch.tensor([0.6, -0.3]))
    std: float = 0.3
    events: list[str] = field(default_factory=list)
    conditions: list[Tensor] = field(default_factory=list)

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        self.events.append("asked")
        self.conditions.append(condition)
        s2 = per_sample(sigma, x_t) ** 2
        return SpyAnswer(self, (self.std**2 * x_t + s2 * self.mean) / (self.std**2 + s2))


@dataclass
class Fickle(Spy):
    """A teacher that answers some questions with nan, always the same ones."""

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        answer = super().submit(x_t, sigma, condition)
        return SpyAnswer(self, torch.full_like(x_t, torch.nan)) if x_t.flatten()[0] > 1 else answer


@dataclass
class SpyAnswer:
    spy: Spy
    x0: Tensor

    def result(self) -> Tensor:
        self.spy.events.append("read")
        return self.x0


def original(spec: StudentSpec = SPEC) -> EDMDenoiser:
    """A frozen teacher, the same each time."""
    torch.manual_seed(11)
    network = spec.denoiser.build().eval().requires_grad_(False)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def pairs_of(spec: StudentSpec) -> Pairs:
    z, x = torch.randn(2, 12, *spec.denoiser.sample_shape, generator=torch.Generator().manual_seed(3))
    return Pairs(z, x, torch.arange(12) % 4)


def trainer(spec: StudentSpec = SPEC, teacher: Any = None, **more: Any) -> StudentTrainer:
    extras = Extras(encoder=original(spec), pairs=pairs_of(spec))
    return StudentTrainer(spec, OWNED, teacher or Spy(), **{"real": REAL, "extras": extras, **more})


def trained(spec: StudentSpec = SPEC) -> StudentTrainer:
    t = trainer(spec)
    t.advance(spec.images)
    return t


def parts(t: StudentTrainer) -> dict[str, Tensors]:
    return t.state_dict().tensors


def assert_same(a: StudentTrainer, b: StudentTrainer) -> None:
    ours, theirs = parts(a), parts(b)
    assert ours.keys() == theirs.keys()
    for part in ours:
        assert ours[part].keys() == theirs[part].keys()
        for name in ours[part]:
            assert torch.equal(ours[part][name], theirs[part][name]), (part, name)


def staged(objectives: list[str], images: int = 24, **changes: Any) -> StudentSpec:
    stages = {
        f"{i}-{name}": replace(DM, objective=name, images=images, options=OPTIONS.get(name, {}), **changes)
        for i, name in enumerate(objectives)
    }
    return replace(SPEC, stages=stages)


# Students whose batches are split, for one process or several.


def shared(objectives: list[str], shards: int = 2, **changes: Any) -> StudentSpec:
    return replace(staged(objectives, images=48, **changes), shards=shards)


SHARED = {
    **{name: shared([name]) for name, method in OBJECTIVES.items() if not method().needs.memory},
    "stages": shared(["tsm", "adm", "sid"], fake_first=8),
    "fickle": shared(["dm"]),
    "three shards": shared(["adm"], shards=3, batch=12),
    "four shards": shared(["adm"], shards=4),
}


def sharing(name: str, group: ProcessGroup = ALONE, **training: Any) -> StudentTrainer:
    spec = replace(SHARED[name], training=replace(SHARED[name].training, **training))
    return trainer(spec, Fickle() if name == "fickle" else Spy(), group=group)
