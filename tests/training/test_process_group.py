"""One student trained by two processes over gloo becomes the one that a single process trains."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.metrics import Metric
from msd_ray.training.process_group import ProcessGroup
from msd_ray.training.state import State

from .cases import SHARED, sharing

ROOT = Path(__file__).parents[2]
RANKS = (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every student; `alone` holds a single process's checkpoints at the half."""
    folder = tmp_path_factory.mktemp("together")
    for name, spec in SHARED.items():
        t = sharing(name)
        t.advance(spec.images // 2)
        Checkpoints(Store(str(folder / name / "alone")), keep=1).save(t.state_dict())
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    run([sys.executable, "-m", "tests.training.together"], folder, os.environ | {"GLOO_SOCKET_IFNAME": loopback})
    return folder


def run(command: list[str], folder: Path, env: dict[str, str], *more: str) -> None:
    workers = [
        subprocess.Popen(
            [*command, str(rank), "2", str(folder), *more], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
        )
        for rank in RANKS
    ]
    try:
        errors = [worker.communicate(timeout=500)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], errors


def alone(name: str) -> State:
    t = sharing(name)
    t.advance(SHARED[name].images)
    return t.state_dict()


def kept(folder: Path, name: str, what: str) -> State:
    state = Checkpoints(Store(str(folder / name / what)), keep=1).latest()
    assert state
    return state


def distance(a: State, b: State) -> float:
    """The largest difference of any two numbers."""
    assert a.tensors.keys() == b.tensors.keys()
    assert all(a.tensors[part].keys() == b.tensors[part].keys() for part in a.tensors)
    pairs = [(value, b.tensors[part][name]) for part in a.tensors for name, value in a.tensors[part].items()]
    assert all(torch.isfinite(x).all() for pair in pairs for x in pair)
    return max(float((x - y).abs().max()) for x, y in pairs)


def curves(state: State) -> dict[tuple[str, int, str], float]:
    """All that was logged but times."""
    rows = [Metric(*row) for row in state.meta["metrics"]]
    return {(m.stage, m.nimg, m.name): m.value for m in rows if not m.name.endswith("seconds")}


def allowed(name: str) -> float:
    """a + b is b + a to the last bit; the sum of more than two depends on their order."""
    return 0.0 if SHARED[name].shards == 2 else 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_two_processes_train_the_student_that_one_trains(folder: Path, name: str) -> None:
    expected = alone(name)
    for rank in RANKS:
        assert distance(kept(folder, name, f"whole-{rank}"), expected) <= allowed(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_what_two_began_one_can_finish_and_the_other_way_round(folder: Path, name: str) -> None:
    expected = alone(name)
    for rank in RANKS:
        t = sharing(name)
        t.load_state_dict(kept(folder, name, f"half-{rank}"))
        t.advance(t.spec.images)
        assert distance(t.state_dict(), expected) <= allowed(name)
        assert distance(kept(folder, name, f"resumed-{rank}"), expected) <= allowed(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_all_processes_hold_the_same_state_and_log_means_over_all_shards(folder: Path, name: str) -> None:
    first, second = (kept(folder, name, f"whole-{rank}") for rank in RANKS)
    assert distance(first, second) == 0
    assert first.meta["nimg"] == second.meta["nimg"] == SHARED[name].images
    cpu = [[row for row in state.meta["metrics"] if row[2] == "cpu_seconds"] for state in (first, second)]
    assert cpu[0] == cpu[1]
    assert curves(first) == curves(second)
    assert curves(first) == pytest.approx(curves(alone(name)), rel=1e-4)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_in_one_process_is_left_out_by_all(folder: Path) -> None:
    updates = SHARED["fickle"].images // SHARED["fickle"].stages["0-dm"].batch
    for rank in RANKS:
        names = [name for _, _, name in curves(kept(folder, "fickle", f"whole-{rank}"))]
        assert 0 < names.count("skipped") < updates


@pytest.mark.slow
def test_all_stop_at_the_same_image_once_one_is_hurried(folder: Path) -> None:
    first, second = (kept(folder, "dm", f"hurried-{rank}") for rank in RANKS)
    assert first.meta["nimg"] == second.meta["nimg"] == 16
    assert distance(first, second) == 0


def test_each_shard_belongs_to_one_process() -> None:
    for world in (1, 2, 3, 5):
        owned = [shard for rank in range(world) for shard in ProcessGroup(rank, world).mine(5)]
        assert sorted(owned) == list(range(5))
    assert list(ProcessGroup(1, 2).mine(5)) == [1, 3]


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_its_group_does_not_have_is_refused(rank: int, world: int) -> None:
    with pytest.raises(ValueError, match=rf"rank \({rank}\) must be .* below world \({world}\)"):
        ProcessGroup(rank, world)
