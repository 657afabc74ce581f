"""How many requests the things cost that a run does over and over: each takes as long as S3's answer."""

from collections import Counter

import torch

from msd_ray.runs.lease import Lease
from msd_ray.runs.run_status import RunStatus, read_status, write_status
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State

from .running import S3

PARTS = ("generator", "ema", "fake", "generator_optimizer", "fake_optimizer")
FILES = len(PARTS) + 2  # with state.json and the manifest


def state(nimg: int) -> State:
    return State({part: {"weight": torch.full((3,), float(nimg))} for part in PARTS}, {"nimg": nimg})


def test_a_checkpoint_that_replaces_an_older_one(s3: S3) -> None:
    checkpoints = Checkpoints(Store(s3.uri("bucket/checkpoints")), keep=2)
    for nimg in (1, 2, 3):
        checkpoints.save(state(nimg))
    s3.requests()
    checkpoints.save(state(4))
    assert s3.counted() == Counter(Put=FILES, List=3, Delete=2, DeleteMany=1)
    assert checkpoints.store.names() == [f"ckpt-{nimg:012d}" for nimg in (3, 4)]

    s3.requests()
    newest = Checkpoints(checkpoints.store, keep=2).latest()
    assert newest and newest.meta == {"nimg": 4} and torch.equal(newest.tensors["ema"]["weight"], torch.full((3,), 4.0))
    assert s3.counted() == Counter(Get=FILES, List=1)


def test_the_status_is_one_request_and_the_lease_two(s3: S3) -> None:
    store = Store(s3.uri("bucket/driver"))
    lease = Lease(store)
    lease.take()
    s3.requests()
    lease.check()
    assert s3.counted() == Counter(Get=1, Put=1)
    write_status(store, RunStatus(0.0, "here:1", False, 1, 0.0, 0.0, []))
    assert s3.counted() == Counter(Put=1)
    read_status(store)  # and whether its driver holds the lease
    assert s3.counted() == Counter(Get=2)
    lease.release()
    assert s3.counted() == Counter(Get=1, Delete=1)
