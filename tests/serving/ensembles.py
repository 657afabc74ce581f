"""Small ensembles of random weights, on disk."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.diffusion import Noise
from msd_ray.ensemble import Member, Sampling, save_ensemble
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.storage import Store

NOISE = Noise(sigma_max=20.0)
LABELS = tuple(f"digit {i}" for i in range(10))
PICTURES = DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0), (1, 8, 8), 10)
POINTS = DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 10)


def saved(
    where: Path,
    k: int = 3,
    timesteps: int = 1,
    spec: DenoiserSpec = PICTURES,
    weights: tuple[int, ...] = (),
    steps: int = 1,
) -> str:
    """Saves an ensemble of random weights. weights: a seed for each student, its number by default. steps: in which
    each makes a sample, or those of a part together."""
    noise = replace(NOISE, steps=steps)
    partition = fit(PartitionConfig(k, "random", timesteps=timesteps), Classes.numbered(len(LABELS)), noise=noise)
    seeds = weights or tuple(range(partition.k))
    begins = [partition.steps_of(i, noise.step_levels)[0] if steps > 1 else 80.0 for i in range(partition.k)]
    members = [Member(i, spec, begins[i], 640, _random(spec, seeds[i])) for i in range(len(seeds))]
    generators = timesteps == 1 or steps > 1
    sampling = Sampling.of_generators(noise) if generators else Sampling("heun", 3, NOISE)
    save_ensemble(Store(str(where)), {"name": "tiny"}, partition, LABELS, members, sampling)
    return str(where)


def flip_a_bit(file: Path) -> None:
    """Damage that the size of a file does not show."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _random(spec: DenoiserSpec, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    denoiser = spec.build()
    for parameter in denoiser.parameters():
        if not parameter.any():  # layers that start as zero would hide what flows into them
            nn.init.normal_(parameter, std=0.1)
    return denoiser.state_dict()
