"""How long the parts of a teacher's update take on a network so small that the GPU waits for Python."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_rows import Figures, Rows, seconds

from msd_ray.conditions import Classes
from msd_ray.data import in_memory
from msd_ray.diffusion import EDMDenoiser, Noise, edm_loss
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.rng import stream
from msd_ray.training import ema, precision
from msd_ray.training.adam import Adam
from msd_ray.training.config import TrainingConfig
from msd_ray.training.teacher_trainer import TeacherConfig, TeacherTrainer

FASHION = DenoiserSpec(
    UNetConfig(channels=16, multipliers=(1, 2, 4), blocks=1, attention=(8,), dropout=0.0), (1, 32, 32), 10
)
"""The network of the recipe fashion."""
BATCH = 64


def small(rows: Rows, updates: int) -> None:
    """updates: per figure, after as many that are not counted."""
    rows.measure("small: teacher's update", 30, lambda: update(rows.device, updates))
    rows.measure("small: its parts", 30, lambda: parts(rows.device, updates))
    if rows.device.type == "cuda":
        rows.measure("small: forward and backward as a CUDA graph", 30, lambda: graphed(rows.device, updates))


def small_compiled(rows: Rows, updates: int) -> None:
    rows.measure("small: forward and backward compiled", 60, lambda: compiled(rows.device, updates))


def trainer(device: torch.device, batch: int) -> TeacherTrainer:
    data = in_memory(torch.rand(1024, *FASHION.sample_shape) * 2 - 1, torch.arange(1024) % 10)
    config = TeacherConfig(images=10**9, batch=batch, warmup=0)
    return TeacherTrainer(config, FASHION, Noise(), data, Classes.numbered(10), device)


def ms(act: Callable[[], Any], device: torch.device, times: int) -> float:
    """Of one call, when many are made one after the other."""

    def many() -> None:
        for _ in range(times):
            act()

    many()
    return round(seconds(many, device) / times * 1e3, 3)


def update(device: torch.device, updates: int) -> Figures:
    made = {batch: trainer(device, batch) for batch in (BATCH, 2 * BATCH)}
    took = {batch: ms(lambda: t.advance(batch * updates), device, 2) / updates for batch, t in made.items()}  # noqa: B023
    return {"parameters": FASHION.parameters(), "ms_by_batch": {str(b): round(t, 2) for b, t in took.items()}}


def parts(device: torch.device, updates: int) -> Figures:
    net, x, condition = _network(device)
    mean, adam = copy.deepcopy(net).requires_grad_(False), Adam(net.parameters(), 1e-4)
    rng = torch.Generator(device).manual_seed(0)
    _forward_backward(net, x, condition, rng)

    def forward() -> None:
        with torch.no_grad():
            edm_loss(net, x, condition, rng)

    acts: dict[str, Callable[[], Any]] = {
        "stream": lambda: stream(0, "teacher", 1, device=device),
        "manual_seed": lambda: torch.manual_seed(1),
        "forward": forward,
        "forward_backward": partial(_forward_backward, net, x, condition, rng),
        "adam": adam.step,
        "ema": lambda: ema.update(mean, net, 0.999),
        "waiting_for_a_number": lambda: float(x[0, 0, 0, 0]),
    }
    return {"ms": {name: ms(act, device, updates) for name, act in acts.items()}}


def compiled(device: torch.device, updates: int) -> Figures:
    net, x, condition = _network(device)
    precision.apply(net, TrainingConfig(compile=True))
    rng = torch.Generator(device).manual_seed(0)
    act = partial(_forward_backward, net, x, condition, rng)
    first = seconds(act, device)
    return {"first_seconds": round(first, 1), "ms": ms(act, device, updates)}


def graphed(device: torch.device, updates: int) -> Figures:
    """The raw network alone, as a graph of kernels that Python starts with one call in each direction."""
    net, x, condition = _network(device)
    sigma = torch.rand(len(x), device=device)
    raw = net.network
    before = ms(lambda: raw(x, sigma, condition).square().mean().backward(), device, updates)
    torch.cuda.make_graphed_callables(raw, (x, sigma, condition))
    after = ms(lambda: raw(x, sigma, condition).square().mean().backward(), device, updates)
    return {"ms_eager": before, "ms_graphed": after}


def _network(device: torch.device) -> tuple[EDMDenoiser, torch.Tensor, torch.Tensor]:
    net = FASHION.build().to(device)
    return net, torch.rand(BATCH, *FASHION.sample_shape, device=device), torch.arange(BATCH, device=device) % 10


def _forward_backward(net: EDMDenoiser, x: torch.Tensor, condition: torch.Tensor, rng: torch.Generator) -> None:
    for p in net.parameters():
        p.grad = None
    edm_loss(net, x, condition, rng).backward()  # type: ignore[no-untyped-call]
