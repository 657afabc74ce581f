"""A student of the size of EDM's ImageNet-64, 296 million parameters, through the commands that users give: train, kill
-9 after the first of two checkpoints, train on, assemble, generate, export, and diffusers' own pipeline on the export.
Seconds, the most memory of each kind of process, bytes on disk. Exits with 1 where the run that was killed ends with
other weights than an undisturbed one or leaves processes behind, or diffusers makes other pictures than `generate`.

    python benchmarks/large_network.py [--teacher local] [--threads 1] [--folder F] [--quick]

Recipe imagenet64 with one student, in two updates of DM of one image each, without the evaluation. The teacher has
random weights, the data are random pixels of 1,000 classes. The folder needs 30 GB; all that is written is removed.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, say
from watched import GB, watched

from msd_ray.ensemble import seeded_noise
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.storage import MANIFEST, Store, read_manifest
from msd_ray.teachers.checkpoint import Checkpoint
from msd_ray.teachers.converted import keep_converted
from msd_ray.training.checkpoints import META, checkpoint_name
from msd_ray.training.records import Records

CLASSES, CONDITIONS, TOLERANCE = 1000, [0, 7, 999], 1e-4
FIRST, LAST = 1, 2
"""Images, and so updates, at the two checkpoints."""
WHOLE = UNetConfig(dropout=0.0), 64
QUICK = UNetConfig(channels=128, multipliers=(1, 1), blocks=1, attention=(8,), dropout=0.0), 16
"""Network and pixels of a side. The second is as narrow as diffusers can express."""


def make_data(folder: Path, side: int) -> None:
    """Random images as ImageNet's authors give theirs: one per class, in ten files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, labels in enumerate(np.split(np.arange(1, CLASSES + 1), 10), 1):
        pixels = rng.integers(0, 256, (len(labels), 3 * side**2), dtype=np.uint8)
        np.savez(folder / f"train_data_batch_{i}.npz", data=pixels, labels=labels)
    (folder / "map_clsloc.txt").write_text("\n".join(f"n{i:08d} {i} class_{i}" for i in range(1, CLASSES + 1)))


def make_teacher(folder: Path, spec: DenoiserSpec) -> None:
    """As `msd-ray teacher convert` keeps one. Layers that begin as zero are random too: else most would do nothing."""
    torch.manual_seed(0)
    network = spec.build()
    for weights in network.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.02)
    checkpoint = Checkpoint("random", "ADM", spec.parameters(), spec, network.state_dict(), "none: random weights")
    keep_converted(Store(str(folder)), checkpoint, "random weights")


def training(folder: Path, network: UNetConfig, side: int, args: argparse.Namespace) -> list[str]:
    """Of the command, without the run's directory."""
    shape = {"channels": network.channels, "multipliers": list(network.multipliers), "blocks": network.blocks}
    shape["attention"] = list(network.attention)
    stage = f"objective: dm, images: {LAST}, batch: {FIRST}, fake_steps: 1, warmup: 0"
    values = {
        **{f"network.{name}": value for name, value in shape.items()},
        "data": f"{{name: imagenet64, folder: {folder / 'data'}, options: {{size: {side}}}}}",
        "teacher": f"{{from: {folder / 'teacher'}, steps: 1}}",
        "partition.k": 1,
        "stages": f"{{dm: {{{stage}, generator_lr: 2e-6, fake_lr: 2e-6}}}}",
        "training": f"{{threads: {args.threads}, checkpoint_every: {FIRST}, log_every: {FIRST}, keep: 1}}",
        "cluster": f"{{teacher: {args.teacher}}}",
        "evaluation": "{samples: 2, curve_samples: 2, neighbours: 1, features: efficientnet-lite0-64}",
    }
    return ["train", "imagenet64", *(f"{name}={value}" for name, value in values.items())]


def assembled(run: Path) -> Callable[[], bool]:
    """Whether the run has its ensemble, whose evaluation is not waited for."""
    return (run / "ensemble" / MANIFEST).exists


def under_way(student: Path) -> bool:
    """Whether the first checkpoint is whole, and the second update has begun."""
    record = Records(Store(str(student))).read(FIRST)
    return record is not None and not record.measuring and (student / checkpoint_name(FIRST) / MANIFEST).exists()


def weights_of(run: Path) -> dict[str, str]:
    """The sha256 of each file of the last checkpoint, optimizers included, and of the ensemble."""
    folders = run / "students/0000" / checkpoint_name(LAST), run / "ensemble"
    files = [(name, entry) for at in folders for name, entry in read_manifest(Store(str(at))).files.items()]
    return {name: entry.sha256 for name, entry in files if name != META}


def update_seconds(run: Path) -> list[float]:
    rows = Records(Store(str(run / "students/0000"))).until(LAST)
    return [round(row.value, 1) for row in rows if row.name == "wall_seconds"]


def gigabytes(path: Path) -> float:
    return round(sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / GB, 3)


def compare(folder: Path, side: int) -> None:
    """Writes the largest difference between the pictures of `generate` and those of diffusers' own pipeline, and which
    share of their values is neither black nor white."""
    from diffusers import DiffusionPipeline

    ours = torch.from_numpy(np.load(folder / "samples.npy"))[:, 0]
    noise = seeded_noise([0] * len(CONDITIONS), (3, side, side))
    pipeline = DiffusionPipeline.from_pretrained(folder / "diffusers")
    made = pipeline(batch_size=len(noise), class_labels=CONDITIONS, latents=noise, output_type="pt").images
    difference, between = (made - (ours / 2 + 0.5).clamp(0, 1)).abs().max(), ours.abs() < 1
    facts = {"difference": float(difference), "between": round(float(between.float().mean()), 3)}
    (folder / "pipeline.json").write_text(json.dumps(facts))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    network, side = QUICK if args.quick else WHOLE
    spec, run = DenoiserSpec(network, (3, side, side), CLASSES), folder / "run"
    make_data(folder / "data", side)
    make_teacher(folder / "teacher", spec)
    found: dict[str, Any] = {"parameters": spec.parameters(), "teacher": args.teacher, "threads": args.threads}

    def step(name: str, *line: Any, program: Sequence[str] = ("-m", "msd_ray"), until: Any = lambda: False) -> None:
        say(name)
        found[name] = watched([sys.executable, *program, *map(str, line)], folder, args.least_free, until)

    train = training(folder, network, side, args)
    step("undisturbed", *train, "--run-dir", folder / "calm", until=assembled(folder / "calm"))
    wanted, found["undisturbed"]["update_s"] = weights_of(folder / "calm"), update_seconds(folder / "calm")
    shutil.rmtree(folder / "calm")
    again = [*train, "--run-dir", run]
    step("killed", *again, until=partial(under_way, run / "students/0000"))
    step("resumed", *again, until=assembled(run))
    found["bit_identical"] = weights_of(run) == wanted
    shutil.rmtree(run / "ensemble")
    step("assembled", *again, until=assembled(run))
    found["bit_identical"] &= weights_of(run) == wanted
    asked = ["--conditions", ",".join(map(str, CONDITIONS)), "--seeds", "0"]
    step("generated", "generate", run, *asked, "-o", folder / "samples.npy")
    for form in ("safetensors", "diffusers"):
        step(form, "export", run, "--format", form, "-o", folder / form)
    step("stock_pipeline", folder, side, program=(__file__, "--compare"))
    found["stock_pipeline"] |= json.loads((folder / "pipeline.json").read_text())
    places = {"teacher": folder / "teacher", "checkpoint": run / "students/0000" / checkpoint_name(LAST)}
    places |= {"ensemble": run / "ensemble", "safetensors": folder / "safetensors", "diffusers": folder / "diffusers"}
    return found | {"disk_gb": {name: gigabytes(path) for name, path in places.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--teacher", choices=["local", "pool"], default="local", help="as cluster.teacher")
    parser.add_argument("--threads", type=int, default=1, help="of the student")
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="where there are 30 GB of room")
    parser.add_argument("--least-free", type=float, default=1.7, help="GB of free memory below which all is ended")
    parser.add_argument("--quick", action="store_true", help="a network of 6 million parameters")
    parser.add_argument("--compare", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compare:
        compare(Path(args.compare[0]), int(args.compare[1]))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args, Path(folder))
    finish("large_network", found)
    well = found["bit_identical"] and not found["killed"]["left"] and found["stock_pipeline"]["difference"] < TOLERANCE
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
