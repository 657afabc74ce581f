"""What five students that are adapters of one base take to keep and to serve, beside five of all weights and one.

Each ensemble, of random weights, is saved, and loaded by a process of its own that makes an image of each student in
turn: bytes on disk, the growth of that process's memory from before it loads the ensemble, and CPU milliseconds per
image once each student has made one.

    python benchmarks/adapters.py [--quick] [--students 5] [--rank 4] [--images 10]

The last line of standard output is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from common import finish, say
from serving_ensembles import weights

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.ensemble import Ensemble, Member, SharedBase, save_ensemble
from msd_ray.networks import Adapter, DenoiserSpec, UNetConfig
from msd_ray.networks.adapters import attach, own_parameters, own_tensors
from msd_ray.storage import Store

LARGE = DenoiserSpec(UNetConfig(channels=96, multipliers=(1, 2, 2), blocks=2, attention=(16,)), (3, 32, 32), 10)
SMALL = DenoiserSpec(UNetConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(16,)), (3, 32, 32), 10)
LABELS = tuple(map(str, range(10)))
MIB = 2**20


def save(where: str, spec: DenoiserSpec, students: int, adapter: Adapter | None) -> None:
    """An ensemble of random weights, of which no layer is zero."""
    base = SharedBase(weights(spec, 0)) if adapter else None
    members = []
    for i in range(students):
        state = own(spec, adapter, i) if adapter else weights(spec, i)
        members.append(Member(i, spec, 80.0, 0, state, adapter, base))
    partition = fit(PartitionConfig(students), Classes.numbered(10))
    save_ensemble(Store(where), {"name": "adapters"}, partition, LABELS, members)


def own(spec: DenoiserSpec, adapter: Adapter, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    denoiser = attach(spec.build(), adapter)
    for _, p in own_parameters(denoiser):
        torch.nn.init.normal_(p, std=0.02)
    return own_tensors(denoiser)


def served(where: str, students: int, images: int) -> dict[str, float]:
    """Loads the ensemble in this process."""
    process = psutil.Process()
    before = process.memory_info().rss
    ensemble = Ensemble.load(where)
    classes = [int(c) for c in torch.arange(students) * 10 // students]
    for c in classes:
        ensemble.generate([c], [0])
    held, start = process.memory_info().rss - before, time.process_time()
    for i in range(images):
        ensemble.generate([classes[i % students]], [i])
    return {"memory_mib": held / MIB, "ms_per_image": 1000 * (time.process_time() - start) / images}


def measured(name: str, spec: DenoiserSpec, students: int, adapter: Adapter | None, images: int) -> dict[str, object]:
    say(f"{name} ...")
    with tempfile.TemporaryDirectory() as folder:
        save(folder, spec, students, adapter)
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        command = [sys.executable, __file__, "--inside", folder, f"--students={students}", f"--images={images}"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    row = {"ensemble": name, "students": students, "disk_mib": disk / MIB, **found}
    say(", ".join(f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=5)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--images", type=int, default=10, help="that are timed")
    parser.add_argument("--inside", metavar="FOLDER", help="for the script itself: load this ensemble")
    parser.add_argument("--quick", action="store_true", help="a small network")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.inside:
        print(json.dumps(served(args.inside, args.students, args.images)))
        return
    spec = SMALL if args.quick else LARGE
    rows = [
        measured("one student", spec, 1, None, args.images),
        measured("all weights", spec, args.students, None, args.images),
        measured("adapters", spec, args.students, Adapter(rank=args.rank), args.images),
    ]
    finish("adapters", {"parameters": spec.parameters(), "rank": args.rank, "images": args.images, "rows": rows})


if __name__ == "__main__":
    main()
