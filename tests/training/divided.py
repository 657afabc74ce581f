"""One of several processes that divide students among them, each keeping a piece of every weight.

python -m tests.training.divided RANK WORLD FOLDER NAME...: each student is trained from the start, with a checkpoint at
its half, and once more from that of a single process, in <FOLDER>/<name>/alone. bytes-<rank> says what each one holds.
"""

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import distributed

from msd_ray.data import in_memory
from msd_ray.networks import DenoiserSpec, DiffusersUNetConfig, SongUNetConfig, UNetConfig
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.process_group import ALONE, ProcessGroup
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

from .cases import CONDITIONS, SHARED, Spy, shared, sharing, trainer

UNET = UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0.0)
SONG = SongUNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)
DIFFUSERS = DiffusersUNetConfig(
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
)
PICTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "unet": (UNET, {"recompute": True, "optimizer_state": "host"}),
    "songunet": (SONG, {}),
    "diffusers-unet": (DIFFUSERS, {}),
    "rough": (UNET, {"precision": "bf16"}),
}
FEW = ["dm", "adm", "gdd", "stages", "fickle", "unet", "rough"]
OTHERS = [name for name in [*SHARED, *PICTURES] if name not in (*FEW, "three shards")]


def spec_of(name: str) -> StudentSpec:
    if name not in PICTURES:
        return SHARED[name]
    network, training = PICTURES[name]
    spec = replace(shared(["adm"]), denoiser=DenoiserSpec(network, (1, 8, 8), 4))
    return replace(spec, training=replace(spec.training, **training))


def divided(name: str, group: ProcessGroup = ALONE, sharding: str = "full") -> StudentTrainer:
    """group: alone it has all weights."""
    if name not in PICTURES:
        return sharing(name, group, sharding=sharding)
    spec = spec_of(name)
    spec = replace(spec, training=replace(spec.training, sharding=sharding))
    real = in_memory(torch.linspace(-1, 1, 640).reshape(10, 1, 8, 8), torch.tensor(CONDITIONS * 5))
    return trainer(spec, Spy(mean=torch.tensor(0.2)), group=group, real=real)


def main(rank: int, world: int, folder: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    group = ProcessGroup(rank, world)
    for name in names:
        store, t = Store(folder).child(name), divided(name, group)
        t.advance(spec_of(name).images // 2)
        keep(t, store, "half")
        t.advance(spec_of(name).images)
        keep(t, store, "whole")
        store.write(f"bytes-{rank}", str(t.bytes()).encode())
        t = divided(name, group)
        begun = Checkpoints(store.child("alone"), keep=1).latest()
        assert begun
        t.load_state_dict(begun)
        t.advance(spec_of(name).images)
        keep(t, store, "resumed")
    distributed.destroy_process_group()


def keep(t: StudentTrainer, store: Store, what: str) -> None:
    state = t.state_dict()
    if t.group.rank == 0:
        Checkpoints(store.child(what), keep=1).save(state)
    else:
        assert not any(state.tensors.values())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
