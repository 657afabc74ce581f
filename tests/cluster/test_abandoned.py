"""Placement groups whose maker is dead are freed, all others stay."""

import time
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def maker() -> Any:
    import ray

    class Maker:
        def make(self, cpus: float) -> str:
            group = ray.util.placement_group([{"CPU": cpus}])
            if cpus < 1:
                ray.get(group.ready())
            return str(group.id.hex())

    return ray.remote(num_cpus=0)(Maker).remote()


def states(*groups: str) -> list[str]:
    import ray

    known = ray.util.placement_group_table()
    return [known[group]["state"] for group in groups]


def freed(*groups: str) -> bool:
    """Whether these come to be removed; Ray takes a moment to notice a death."""
    from msd_ray.cluster.ray_train.shared import release_abandoned

    deadline = time.monotonic() + 30
    while states(*groups) != ["REMOVED"] * len(groups) and time.monotonic() < deadline:
        time.sleep(0.1)
        release_abandoned()
    return states(*groups) == ["REMOVED"] * len(groups)


def test_only_what_the_dead_hold_is_freed() -> None:
    import ray

    from msd_ray.cluster.ray_train.shared import release_abandoned

    dead, alive = maker(), maker()
    held, waiting = ray.get([dead.make.remote(0.1), dead.make.remote(1000.0)])
    other = ray.get(alive.make.remote(0.1))
    release_abandoned()
    assert states(held, waiting, other) == ["CREATED", "PENDING", "CREATED"]
    ray.kill(dead)
    assert freed(held, waiting)
    assert states(other) == ["CREATED"]
    ray.kill(alive)
    assert freed(other)
