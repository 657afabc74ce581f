"""Teacher pools for tests, and what a student asks them."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.recipes import PoolConfig
from msd_ray.runs.teacher_cache import keep_teacher, load_teacher
from msd_ray.storage import Store
from msd_ray.teachers.kept_teacher import KeptTeacher
from msd_ray.training.state import State

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # job_cluster starts a cluster for both
SPEC = DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (1, 8, 8), 10)


def shaken(spec: DenoiserSpec, scale: float = 0.1) -> Any:
    """A denoiser none of whose layers is zero."""
    torch.manual_seed(0)
    denoiser = spec.build().eval().requires_grad_(False)
    for p in denoiser.parameters():
        p.copy_(torch.randn_like(p) * scale)
    return denoiser


Start = Callable[..., Any]
PoolOf = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(denoiser, spec, size, **config) starts a pool that holds this teacher; config: of PoolConfig."""
    from msd_ray.cluster.pool.pool import Pool

    started: list[Any] = []

    def start(denoiser: Any, spec: DenoiserSpec = SPEC, size: int = 1, **config: Any) -> Any:
        store = Store(str(tmp_path / f"teacher-{len(started)}"))
        facts = {"nimg": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
        keep_teacher(store, spec, State({"ema": denoiser.state_dict()}, facts))
        settings = PoolConfig(**{"min_replicas": size, "max_replicas": size, "cpus": 0.1} | config)
        started.append(Pool(settings, partial(load_teacher, KeptTeacher(store))))
        return started[-1]

    yield start
    for pool in started:
        pool.stop()


@pytest.fixture
def pool_of(start: Start) -> PoolOf:
    """As start, but what a student has of the pool."""
    return lambda *args, **config: client_of(start(*args, **config), **config)


def client_of(pool: Any, size: int = 1, **config: Any) -> Any:
    from msd_ray.cluster.pool.client import TeacherPool

    client = TeacherPool(PoolConfig(**config))
    client.use(pool.replicas)
    return client


def question(n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    x_t = torch.randn(n, 1, 8, 8, generator=rng)
    return x_t, torch.rand(n, generator=rng) * 5 + 0.01, torch.arange(n) % 10


def metrics_of(pool: Any) -> Any:
    import ray

    return ray.get([actor.metrics.remote() for actor in pool.replicas])
