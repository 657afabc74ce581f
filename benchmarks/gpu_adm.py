"""Updates of DM and ADM on the network of EDM's ImageNet-64 teacher, or of Stable Diffusion v1.5, with random weights:
ours in several precisions beside the plain one; the teacher alone, and sampling in one step beside 35 evaluations."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from common import spread
from gpu_plain import FAKE_STEPS, NOISE, plain_update
from gpu_rows import H100_BF16, Figures, Rows, seconds, timed
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.diffusion import EDMDenoiser, one_step
from msd_ray.diffusion.samplers import heun
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.networks.diffusers_unet_condition import DiffusersConditionUNetConfig
from msd_ray.networks.shapes import shapes_only
from msd_ray.profiling.blank_conditions import Blank
from msd_ray.teachers import LocalTeacher
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.precision import apply
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

IMAGENET64 = DenoiserSpec(UNetConfig(dropout=0.0), (3, 64, 64), 1000)
TINY = DenoiserSpec(UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0), (3, 4, 4), 10)
SD15 = DenoiserSpec(DiffusersConditionUNetConfig(), (4, 64, 64), 768)
TINY_PROMPTS = DenoiserSpec(
    DiffusersConditionUNetConfig(block_out_channels=(8, 8), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                 up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=1,
                                 attention_head_dim=2, norm_num_groups=4),
    (4, 8, 8), 16,
)  # fmt: skip
SHAPES = {"imagenet64": IMAGENET64, "sd15": SD15, "tiny": TINY, "tiny-prompts": TINY_PROMPTS}
TOKENS = 77  # of a prompt
REAL, STEPS, REPEATS, KERNELS = 256, 18, 4, 30
COMPILED = TrainingConfig(precision="bf16", compile=True, deterministic=False)


def eager(precision: str, **how: Any) -> TrainingConfig:
    return TrainingConfig(**{"precision": precision, "compile": False, "deterministic": False, **how})


class Adm:
    """The rows of one shape of network, on one device, with one set of weights."""

    def __init__(self, rows: Rows, shape: str, batch: int) -> None:
        self.rows, self.spec, self.batch, self.device = rows, SHAPES[shape], batch, rows.device
        self._teacher: EDMDenoiser | None = None
        self._flops: Figures = {}

    def count(self) -> None:
        """Without it, rows have no `mfu`."""
        self._flops = self.rows.measure("FLOPs per image", 60, lambda: flops(self.spec))

    def plain(self, objective: str, limit: float = 60) -> None:
        self.rows.measure(f"{objective} plain", limit, lambda: self._plain(objective))

    def ours(self, objective: str, how: TrainingConfig, limit: float = 60, batch: int = 0) -> None:
        said = f"{objective} ours {how.precision}" + " compiled" * bool(how.compile is True)
        said += " recompute" * how.recompute + " deterministic" * how.deterministic
        self.rows.measure(said, limit, lambda: self._ours(objective, how, batch or self.batch))

    def sampling(self, how: TrainingConfig, limit: float = 40) -> None:
        said = "compiled" if how.compile is True else "eager"
        self.rows.measure(f"sampling {how.precision} {said}", limit, lambda: self._sampling(how))

    def profile(self, objective: str, how: TrainingConfig, limit: float = 60) -> None:
        said = f"profile of {objective} ours {how.precision}"
        self.rows.measure(said, limit, lambda: self._profile(objective, how))

    def teacher(self, how: TrainingConfig) -> EDMDenoiser:
        if self._teacher is None:
            torch.manual_seed(0)
            self._teacher = _filled(self.spec.build().to(self.device)).eval().requires_grad_(False)
        return apply(self._teacher, how)

    def _plain(self, objective: str) -> Figures:
        teacher = self.teacher(eager("tf32"))  # the plain update says itself where autocast is
        generator, fake = (copy.deepcopy(teacher).requires_grad_(True) for _ in range(2))
        real, draw = self._real().to(self.device), lambda n: _drawn(self.spec, n, self.device)
        update = plain_update(generator, [fake, teacher], objective == "adm", real, self.batch, draw)
        return self._figures(update, objective, self.batch)

    def _ours(self, objective: str, how: TrainingConfig, batch: int) -> Figures:
        trainer = self._trainer(objective, how, batch)
        return self._figures(lambda: trainer.advance(batch), objective, batch)

    def _profile(self, objective: str, how: TrainingConfig) -> Figures:
        """What the device does in one update: the kernels that take longest, their milliseconds and calls."""
        trainer = self._trainer(objective, how, self.batch)
        trainer.advance(self.batch)
        with torch.profiler.profile() as profile:
            took = seconds(lambda: trainer.advance(self.batch), self.device)
        events = [e for e in profile.key_averages() if e.self_device_time_total and e.device_type.name == "CUDA"]
        events.sort(key=lambda e: -e.self_device_time_total)
        kernels = [[e.key[:90], round(e.self_device_time_total / 1e3, 1), e.count] for e in events[:KERNELS]]
        busy = sum(e.self_device_time_total for e in events) / 1e6
        return {"batch": self.batch, "seconds": round(took, 3), "busy_seconds": round(busy, 3), "kernels": kernels}

    def _trainer(self, objective: str, how: TrainingConfig, batch: int) -> StudentTrainer:
        torch.set_deterministic_debug_mode("warn" if how.deterministic else "default")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  as in training
        teacher = self.teacher(how)
        stage = StageConfig(
            objective, 10**6 * batch, batch, fake_steps=FAKE_STEPS, generator_lr=1e-6, fake_lr=1e-6, warmup=0
        )
        spec = StudentSpec(0, 0, self.spec, {"stage": stage}, how)
        owned = Owned(_conditions(self.spec), torch.arange(self.spec.classes))
        real = in_memory(self._real(), torch.arange(REAL) % self.spec.classes)
        return StudentTrainer(spec, owned, LocalTeacher(teacher), teacher.state_dict(), real, self.device)

    def _real(self) -> Tensor:
        return torch.rand(REAL, *self.spec.sample_shape) * 2 - 1

    def _figures(self, update: Callable[[], Any], objective: str, batch: int) -> Figures:
        first, later = timed(update, self.device, REPEATS)
        rate = spread([batch / t for t in later])
        work = self._flops.get(objective, 0.0) * float(rate["mean"] or 0)
        return {
            "batch": batch,
            "images_per_second": _rounded(rate),
            "mfu": round(work / H100_BF16, 4),
            "tflops": round(work / 1e12, 1),
            "first_update_seconds": round(first, 1),
        }

    @torch.no_grad()
    def _sampling(self, how: TrainingConfig) -> Figures:
        net, n = self.teacher(how), self.batch
        z = torch.randn(n, *self.spec.sample_shape, device=self.device)
        condition = _drawn(self.spec, n, self.device)
        sigma = torch.full((n,), 1.0, device=self.device)
        first, once = timed(lambda: net(z, sigma, condition), self.device, 10)
        _, one = timed(lambda: one_step(net, z, condition, NOISE.sigma_init), self.device, 10)
        _, many = timed(lambda: heun(net, z, condition, NOISE, STEPS), self.device, 2)
        rates = {
            name: n * len(took) / sum(took) for name, took in (("teacher", once), ("one_step", one), ("nfe_35", many))
        }
        return {
            "batch": n,
            "images_per_second": {name: round(rate, 2) for name, rate in rates.items()},
            "teacher_mfu": round(self._flops.get("forward", 0.0) * rates["teacher"] / H100_BF16, 4),
            "one_step_times_faster": round(rates["one_step"] / rates["nfe_35"], 2),
            "first_seconds": round(first, 1),
        }


def _of_prompts(spec: DenoiserSpec) -> bool:
    return hasattr(spec.network, "takes")


def _condition_shape(spec: DenoiserSpec) -> tuple[int, ...]:
    """Of what the network takes for a condition: a prompt's tokens, or one of so many classes."""
    return (TOKENS, spec.classes) if _of_prompts(spec) else (spec.classes,)


def _conditions(spec: DenoiserSpec) -> Any:
    """Prompts without texts, or classes."""
    tokens = _condition_shape(spec)
    return Blank(tokens, tokens, torch.float32) if _of_prompts(spec) else Classes.numbered(spec.classes)


def _drawn(spec: DenoiserSpec, n: int, device: torch.device) -> Tensor:
    """n conditions: vectors of tokens [n, tokens, width], or class numbers [n]."""
    if _of_prompts(spec):
        return torch.randn(n, *_condition_shape(spec), device=device)
    return torch.randint(spec.classes, (n,), device=device)


def flops(spec: DenoiserSpec) -> Figures:
    """Of one image on meta tensors, 2 for a multiplication and an addition: of a forward pass, and of the passes of one
    update of DM and ADM per image of the generator's batch."""
    with shapes_only():
        net = spec.build()
    x, one = torch.zeros(1, *spec.sample_shape, device="meta"), torch.zeros(1, device="meta")
    given = (x, one, torch.zeros(1, *_condition_shape(spec), device="meta"))
    forward, both = _counted(net, given), _counted(net, given, backward=True)
    encode_both = _counted(net.bottleneck, given, backward=True)
    net.requires_grad_(False)
    to_input = _counted(net.bottleneck, (x.requires_grad_(), *given[1:]), backward=True)
    dm = (1 + FAKE_STEPS) * both + (2 + FAKE_STEPS) * forward
    return {
        "parameters": spec.parameters(),
        "forward": forward,
        "dm": dm,
        "adm": dm + 2 * FAKE_STEPS * encode_both + to_input,
    }


def _counted(act: Callable[..., Tensor], given: tuple[Tensor, ...], backward: bool = False) -> float:
    with FlopCounterMode(display=False) as counter:
        out = act(*given)
        if backward:
            out.sum().backward()
    return float(counter.get_total_flops())


def _filled(denoiser: EDMDenoiser) -> EDMDenoiser:
    """With small numbers in the layers that begin as zero: multiplying zeros takes less power, so clocks are higher."""
    with torch.no_grad():
        for p in denoiser.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(std=0.3 / p[0].numel() ** 0.5)
    return denoiser


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}
