"""Kept processes end with their cluster, where that ends first."""

from typing import Any

import pytest

from msd_ray.cluster.idle_slots import IdleSlots


@pytest.mark.parametrize("there", [True, False])
def test_processes_are_ended_only_while_their_cluster_is_there(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """ray.kill would start a cluster of its own where there is none, and then not know the process."""
    killed: list[Any] = []
    monkeypatch.setattr("ray.is_initialized", lambda: there)
    monkeypatch.setattr("ray.kill", killed.append)
    kind: Any = "kind"
    with IdleSlots() as idle:
        idle.keep(kind, "actor", "node")
    assert killed == (["actor"] if there else [])
    idle.close()
    assert len(killed) == there
