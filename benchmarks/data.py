"""Training from images on disk against the same images in memory: images per second, and the memory of the process.

Makes random 64 x 64 RGB images in a file, and trains a student with DM and a GAN, which sees real images, once with all
of a small set kept in memory and once by reading from the large set, in processes of their own, in turns.

    python benchmarks/data.py [--images 2_000_000] [--updates 30] [--rounds 3] [--quick]

The last line of standard output is one JSON object. ratio: images/s from disk over images/s from memory, of each round.
peak_gb: the most memory that the process which reads from disk held, without the system's file cache.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, say, spread

from msd_ray.conditions import Classes, Owned
from msd_ray.data import DataConfig, in_memory, load_data
from msd_ray.diffusion import EDMDenoiser
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.teachers import LocalTeacher
from msd_ray.training import reading
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

SHAPE, CLASSES, BATCH, KEPT = (3, 64, 64), 10, 8, 2_000
NETWORK = UNetConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(), head_channels=16)
"""That of the digits' students, on images of 64 x 64."""


def write_images(folder: Path, n: int) -> None:
    """n images in an images.npy, and their classes."""
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, (1_000, *SHAPE), dtype=np.uint8)
    with open(folder / "images.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[attr-defined]
        for begin in range(0, n, len(block)):
            file.write(np.roll(block, begin // 1_000)[: n - begin].tobytes())
    np.save(folder / "labels.npy", np.arange(n) % CLASSES)


def trained(folder: str, where: str, updates: int) -> dict[str, float]:
    """Images per second and peak memory of this process."""
    torch.set_num_threads(1)
    split = load_data(DataConfig(name="arrays", folder=folder)).train
    if where == "memory":
        few = split.take(torch.arange(KEPT))
        split, reading.HELD = in_memory(few.x, few.condition), 1 << 30
    size = DenoiserSpec(NETWORK, SHAPE, CLASSES)
    stage = StageConfig("adm", images=10**6 * BATCH, batch=BATCH, fake_steps=1, fake_first=0)
    spec = StudentSpec(0, 0, size, {"adm": stage}, TrainingConfig(log_every=10**6 * BATCH))
    teacher: EDMDenoiser = size.build().eval().requires_grad_(False)
    trainer = StudentTrainer(
        spec, Owned(Classes.numbered(CLASSES), torch.arange(CLASSES)), LocalTeacher(teacher), None, split
    )
    trainer.advance(2 * BATCH)
    begin = time.perf_counter()
    trainer.advance(updates * BATCH)
    rate = updates * BATCH / (time.perf_counter() - begin)
    trainer.rest()
    return {"rate": rate, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def in_a_process(folder: str, where: str, updates: int) -> dict[str, float]:
    line = [sys.executable, __file__, "--folder", folder, "--where", where, "--updates", str(updates)]
    said = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20,000 images, 3 updates, one round")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--where", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.where:
        print(json.dumps(trained(args.folder, args.where, args.updates)))
        return
    if args.quick:
        args.images, args.updates, args.rounds = 20_000, 3, 1
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        say(f"writing {args.images:,} images, {args.images * np.prod(SHAPE) / 1e9:.1f} GB")
        write_images(Path(folder), args.images)
        for i in range(args.rounds):
            row = {where: in_a_process(folder, where, args.updates) for where in ("memory", "disk")}
            say(f"round {i + 1} of {args.rounds}: {row}")
            rows.append(row)
    finish(
        "data",
        {
            "images": args.images,
            "ratio": spread([row["disk"]["rate"] / row["memory"]["rate"] for row in rows]),
            "rate_from_disk": spread([row["disk"]["rate"] for row in rows]),
            "peak_gb": max(row["disk"]["peak_gb"] for row in rows),
        },
    )


if __name__ == "__main__":
    main()
