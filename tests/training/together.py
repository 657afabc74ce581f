"""One of several processes that train the students in `cases.SHARED` together.

python -m tests.training.together RANK WORLD FOLDER: each student is trained from the start, with a checkpoint at its
half, and once more from that in <FOLDER>/<name>/alone. At last one is cut short in the second process alone.
"""

import sys

import torch
from torch import distributed

from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.process_group import ProcessGroup

from .cases import SHARED, sharing


def main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    for name, spec in SHARED.items():
        store = Store(folder).child(name)
        t = sharing(name, ProcessGroup(rank, world))
        t.advance(spec.images // 2)
        Checkpoints(store.child(f"half-{rank}"), keep=1).save(t.state_dict())
        t.advance(spec.images)
        Checkpoints(store.child(f"whole-{rank}"), keep=1).save(t.state_dict())
        t = sharing(name, ProcessGroup(rank, world))
        begun = Checkpoints(store.child("alone"), keep=1).latest()
        assert begun
        t.load_state_dict(begun)
        t.advance(spec.images)
        Checkpoints(store.child(f"resumed-{rank}"), keep=1).save(t.state_dict())
    t = sharing("dm", ProcessGroup(rank, world))
    t.advance(48, hurried=lambda: rank == 1 and t.nimg >= 16)
    Checkpoints(Store(folder).child("dm").child(f"hurried-{rank}"), keep=1).save(t.state_dict())
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
