"""Parts of the teacher's pairs at which replicas err or hang, with replicas that exist in name only."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from msd_ray.cluster.pool.batching import ReplicaError
from msd_ray.errors import CorruptError, TrainingError
from msd_ray.recipes import ClusterConfig

PLAN = SimpleNamespace(cluster=ClusterConfig(silence_seconds=100.0, max_failures=1))


@dataclass
class Ray:
    """In place of ray. outcome: of the part at the replica, an error or None; "hangs" until that replica is killed."""

    outcome: Callable[[int, int], Any]
    clock: float = 0.0
    asked: list[tuple[int, int]] = field(default_factory=list)
    killed: list[Any] = field(default_factory=list)

    def replica(self, number: int) -> Any:
        def remote(store: Any, part: int, plan: Any) -> tuple[int, int]:
            self.asked.append((number, part))
            return number, part

        return SimpleNamespace(make_pairs=SimpleNamespace(remote=remote), number=number)

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        self.clock += timeout
        return [r for r in references if self.outcome(*r) != "hangs"][:1], []

    def get(self, reference: Any) -> None:
        if error := self.outcome(*reference):
            raise RayTaskError("make_pairs", "", error)

    def kill(self, actor: Any, no_restart: bool) -> None:
        assert not no_restart
        self.killed.append(actor.number)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ray], list[int]]:
    """made(ray): makes three parts by two replicas."""
    from msd_ray.cluster.pool import pair_making as pairs

    def made(ray: Ray) -> list[int]:
        monkeypatch.setattr(pairs, "ray", ray)
        monkeypatch.setattr(pairs.time, "monotonic", lambda: ray.clock)
        pool = SimpleNamespace(replicas=[ray.replica(0), ray.replica(1)], ready=True, tick=lambda: None)
        return list(pairs._Making(PLAN, None, pool, [0, 1, 2]).lefts())

    return made


def test_a_part_at_which_a_replica_errs_goes_to_the_next(made: Callable[[Ray], list[int]]) -> None:
    ray = Ray(lambda replica, part: ReplicaError("a", "RuntimeError: CUDA error") if replica == 0 else None)
    assert made(ray) == [2, 1, 0]
    assert {part for replica, part in ray.asked if replica == 1} == {0, 1, 2}


def test_an_error_of_all_replicas_is_one_line(made: Callable[[Ray], list[int]]) -> None:
    with pytest.raises(TrainingError, match=r"pairs could not be made: every replica met an error: RuntimeError: CUDA"):
        made(Ray(lambda replica, part: ReplicaError(f"process {replica}", "RuntimeError: CUDA error")))


def test_an_error_of_ours_is_told_at_once(made: Callable[[Ray], list[int]]) -> None:
    ray = Ray(lambda replica, part: CorruptError("the teacher is damaged"))
    with pytest.raises(TrainingError, match="pairs could not be made: the teacher is damaged"):
        made(ray)
    assert len(ray.asked) == 3


def test_replicas_that_hang_are_started_anew(made: Callable[[Ray], list[int]]) -> None:
    ray = Ray(lambda replica, part: None if ray.killed else "hangs")
    assert made(ray) == [2, 1, 0]
    assert ray.killed == [0, 1]
    with pytest.raises(TrainingError, match=r"no progress for 126 s.*, 2 times in a row"):
        made(Ray(lambda replica, part: "hangs"))
