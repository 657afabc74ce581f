"""Two updates by the real trainers, on tiny networks in float64, and the numbers that come of them.

Two, because the first says nothing of an optimizer's betas, of R1, or of an average that began as the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.conditions import Classes, Owned
from msd_ray.data import Samples, in_memory
from msd_ray.diffusion import EDMDenoiser, Noise
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.objectives import OBJECTIVES, Pairs, objective_class
from msd_ray.rng import stream
from msd_ray.teachers import LocalTeacher
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.ema import EMAConfig
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.teacher_trainer import TeacherConfig, TeacherTrainer

from ..gradients import Gradients, last_gradients

FILE = Path(__file__).with_name("updates.json")
BATCH, UPDATES = 8, 2
Numbers = dict[str, list[float]]

SPECS = {
    "mlp": DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 4),
    "unet": DenoiserSpec(
        UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(2,), dropout=0.1), (1, 4, 4), 4
    ),
}


@dataclass(frozen=True)
class Case:
    """An objective as its authors train with it, but for what `stage` and `spec` change."""

    objective: str
    options: dict[str, Any]
    stage: dict[str, Any]
    spec: dict[str, Any]


def case(
    objective: str, stage: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **options: Any
) -> Case:
    return Case(objective, options, stage or {}, spec or {})


CASES = {
    **{name: case(name) for name in OBJECTIVES if name not in ("sida", "uni-instruct", "fd", "rdd", "flow-trajectory")},
    "sida": case("sida", {"fake_first": 0}, gan_from=BATCH),  # the GAN joins at the second update
    "sida, js": case("sida", {"fake_first": 0}, gan_from=0, divergence="js"),
    "sida, the generator rests": case("sida", {"fake_first": BATCH}, gan_from=0),
    **{
        f"uni-instruct, {divergence}": case("uni-instruct", {"fake_first": 0}, gan_from=BATCH, divergence=divergence)
        for divergence in ("forward-kl", "js", "jeffreys")
    },
    **{
        f"f-distill, {divergence}": case("f-distill", divergence=divergence)
        for divergence in ("reverse-kl", "forward-kl", "hellinger", "jeffreys")
    },
    "gdd, r1": case("gdd", r1_every=1, r1=1.0),
    "gdd-i": case("gdd", innate=True),
    "gdd-i without affine": case("gdd", innate=True, affine=False),
    "fd": case("fd", queue=10),  # two batches are more
    "pd of two steps": case("pd", steps=2),
    "pd of the student before": case("pd", teacher="before"),
    "rdd": case("rdd", queue=10, output_weight=0.5),
    "rdd of the student before": case("rdd", steps=2, teacher="before", queue=10),
    "flow-trajectory": case("flow-trajectory", spec={"noise": Noise(sigma_init=2.5)}),
    "fd of samples": case("fd", features="samples", queue=10),
    "consistency and dm": case("sum", terms={"consistency": {"weight": 0.5}, "dm": {}}),
    "dm in two steps": case("dm", spec={"noise": Noise(steps=2)}),
    "dmd, l2": case("dmd", distance="l2"),
    "consistency, l2": case("consistency", distance="l2"),
    "o2mkd without features": case("o2mkd", feature_weight=0.0),
    "sid of sigma 2.5": case("sid", spec={"noise": Noise(sigma_init=2.5)}),
    "dm in two shards": case("dm", spec={"shards": 2}),
    "dm clipped": case("dm", {"clip": 0.01, "fake_clip_value": 0.01}),
}


@contextmanager
def float64() -> Iterator[None]:
    """New tensors are float64, whose rounding differs from machine to machine by less than what is compared."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def network(spec: DenoiserSpec, name: str) -> EDMDenoiser:
    """A frozen one with weights drawn for `name`: fresh ones have layers of zeros, which stop gradients."""
    made, rng = spec.build().eval().requires_grad_(False), stream("golden", name)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3, generator=rng)
    return made


def real(spec: DenoiserSpec, conditions: tuple[int, ...]) -> Samples:
    condition = torch.tensor(conditions * 6)
    return in_memory(
        0.5 * torch.randn(len(condition), *spec.sample_shape, generator=stream("golden", "real")), condition
    )


def pairs(spec: DenoiserSpec) -> Pairs:
    z, x = torch.randn(2, 12, *spec.sample_shape, generator=stream("golden", "pairs"))
    return Pairs(z, x, torch.arange(12) % spec.classes)


def student(name: str, kind: str) -> StudentTrainer:
    """The trainer of a case on a network of that kind."""
    chosen, denoiser, conditions = CASES[name], SPECS[kind], (1, 3)
    stage = StageConfig(
        chosen.objective, images=UPDATES * BATCH, batch=BATCH, generator_lr=1e-3, fake_lr=2e-3, warmup=12
    )
    boundary = objective_class(chosen.objective)(**chosen.options).needs.boundary
    spec = StudentSpec(
        index=2,
        seed=5,
        denoiser=replace(denoiser, sigma_min=Noise().sigma_min if boundary else 0.0),
        stages={"stage": replace(stage, options=chosen.options, **chosen.stage)},
        training=TrainingConfig(log_every=BATCH, ema=EMAConfig(halflife=20, rampup=0.5)),
    )
    original = network(denoiser, "teacher")
    return StudentTrainer(
        replace(spec, **chosen.spec),
        Owned(Classes.numbered(denoiser.classes), torch.tensor(conditions)),
        LocalTeacher(original),
        initial=network(spec.denoiser, "student").state_dict(),
        real=real(denoiser, conditions),
        extras=Extras(encoder=original, pairs=pairs(denoiser)),
    )


def teacher(kind: str) -> TeacherTrainer:
    spec, config = (
        SPECS[kind],
        TeacherConfig(
            seed=3, images=4 * BATCH, batch=BATCH, lr=1e-3, warmup=12, ema=EMAConfig(halflife=20, rampup=0.5)
        ),
    )
    trainer = TeacherTrainer(config, spec, Noise(), real(spec, (0, 1, 2, 3)), Classes.numbered(spec.classes))
    trainer.denoiser.load_state_dict(network(spec, "new teacher").state_dict())
    return trainer


def numbers_of_student(name: str, kind: str) -> Numbers:
    with float64(), last_gradients() as gradients:
        trainer, found = student(name, kind), Numbers()
        for number in range(1, UPDATES + 1):
            losses = {m.name: [m.value] for m in trainer.advance(BATCH) if not m.name.endswith("_seconds")}
            nets = trainer.nets
            modules = {"generator": nets.generator, "ema": trainer.ema, "fake": nets.fake, "head": nets.head}
            described = {**losses, **_described({**modules, "target": nets.target}, gradients)}
            described |= {f"memory {key}": value.flatten().tolist() for key, value in nets.memory.items()}
            found |= {f"update {number}: {key}": value for key, value in described.items()}
        return found


def numbers_of_teacher(kind: str) -> Numbers:
    with float64(), last_gradients() as gradients:
        trainer, found = teacher(kind), Numbers()
        for number in range(1, UPDATES + 1):
            losses = {m.name: [m.value] for m in trainer.advance(BATCH)}
            described = {**losses, **_described({"denoiser": trainer.denoiser, "ema": trainer.ema}, gradients)}
            found |= {f"update {number}: {key}": value for key, value in described.items()}
        return found


@cache
def all_cases() -> dict[str, Any]:
    """What computes the numbers of each case, by its name in the file."""
    students = {f"{name}, {kind}": (numbers_of_student, name, kind) for name in CASES for kind in SPECS}
    return {**students, **{f"teacher, {kind}": (numbers_of_teacher, kind) for kind in SPECS}}


def numbers_of(name: str) -> Numbers:
    compute, *what = all_cases()[name]
    found: Numbers = compute(*what)
    return found


def _described(modules: dict[str, nn.Module | None], gradients: Gradients) -> Numbers:
    """Of each network its first weights and the norm of all, and that of the gradient, where it has one."""
    found = Numbers()
    for name, module in modules.items():
        if module is None:
            continue
        weights = list(module.parameters())
        found[f"{name} weights"] = [*weights[0].detach().flatten()[:3].tolist(), _norm(weights)]
        if gradient := gradients(module):
            found[f"{name} gradient"] = [_norm(gradient)]
    return found


def _norm(tensors: list[Any]) -> float:
    flat: Tensor = torch.cat([t.detach().flatten() for t in tensors])
    return float(flat.norm())
