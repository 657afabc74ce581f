"""Whether a sample may be made at any position of a batch.

`Ensemble.generate` always makes a sample at the position that follows from its seed and condition, since with some
batch sizes some networks' last bits depend on it. Requests with random seeds then collide: 64 of them need about
five evaluations of 64 slots. Where a trial shows that the position makes no difference here, on this machine with this
network and this batch size, the service fills evaluations in order of arrival instead, and still gives the same bits.
"""

import random

import torch

from msd_ray.ensemble import Part

ROUNDS = 4


def positions_show(part: Part, condition: int) -> bool:
    """Whether any sample of a trial depends on where in the batch it is made. condition: one that the part owns.

    The trial is as many samples as there are slots, made in five different orders: each sample is seen at five
    positions and each position has five samples. Takes five evaluations.
    """
    order, rng = list(range(part.slots)), random.Random(0)
    pairs = [(condition, seed) for seed in order]
    reference = part.evaluate(pairs, order, part.slots)
    for _ in range(ROUNDS):
        rng.shuffle(order)
        if not torch.equal(part.evaluate(pairs, order, part.slots), reference):
            return True
    return False
