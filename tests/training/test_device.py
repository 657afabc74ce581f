"""What a process that trains does with its memory."""

import resource
import sys
import threading

import pytest
import torch

from msd_ray.training.device import prepare_device

UPDATE = [2 << 20] * 20
"""Floats of each tensor that an update holds at once: 160 MB in all."""


def faults_of_updates(n: int) -> int:
    """The pages that the system gave this process anew in n updates after three others."""

    def update() -> None:
        [torch.ones(floats) for floats in UPDATE]

    update(), update(), update()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        update()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_the_memory_of_one_update_serves_the_next_in_any_thread() -> None:
    prepare_device(0, 1)
    pages = sum(4 * floats for floats in UPDATE) // resource.getpagesize()
    found = [faults_of_updates(3)]
    thread = threading.Thread(target=lambda: found.append(faults_of_updates(3)))
    thread.start()
    thread.join()
    assert len(found) == 2 and max(found) < 0.1 * pages
