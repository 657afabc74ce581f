"""One student of which two processes keep a piece each becomes the one that a single process trains."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State, Tensors

from .divided import FEW, OTHERS, divided, spec_of
from .test_process_group import RANKS, curves, distance, kept, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DIVIDED = [*FEW, *(pytest.param(name, marks=pytest.mark.nightly) for name in OTHERS)]


def assert_alike(found: State, expected: State, name: str) -> None:
    """Sums over processes round otherwise. Keys' biases have no gradient but rounding, which Adam makes steps of. In
    bf16 divided weights are rounded that autocast leaves, those of norms: the average moves by the same but for a
    twentieth."""
    if name != "rough":
        assert distance(without_key_biases(found), without_key_biases(expected)) <= 1e-5
        return
    begin, now, then = (vector(state.tensors["ema"]) for state in (divided(name).state_dict(), found, expected))
    assert (now - then).norm() < 0.05 * (then - begin).norm()


def without_key_biases(state: State) -> State:
    """Their averages are numbered, not named, so those of networks that have such biases go too."""
    parts = {part: {n: t for n, t in of_one.items() if "to_k.bias" not in n} for part, of_one in state.tensors.items()}
    if parts["fake"].keys() != state.tensors["fake"].keys():
        parts = {part: tensors for part, tensors in parts.items() if "optimizer" not in part}
    return State(parts)


def vector(tensors: Tensors) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every student; `alone` holds a single process's checkpoints at the half."""
    folder = tmp_path_factory.mktemp("divided")
    mine = [item.name for item in request.session.items if item.path == request.path]
    names = [name for name in (*FEW, *OTHERS) if any(f"[{name}]" in item for item in mine)]
    for name in names:
        t = divided(name)
        t.advance(spec_of(name).images // 2)
        Checkpoints(Store(str(folder / name / "alone")), keep=1).save(t.state_dict())
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    command = [sys.executable, "-m", "tests.training.divided"]
    run(command, folder, os.environ | {"GLOO_SOCKET_IFNAME": loopback}, *names)
    return folder


def whole(name: str) -> State:
    t = divided(name)
    t.advance(t.spec.images)
    return t.state_dict()


@pytest.mark.parametrize("name", DIVIDED)
def test_two_processes_with_pieces_train_the_student_that_one_trains(folder: Path, name: str) -> None:
    expected, found = whole(name), kept(folder, name, "whole")
    assert_alike(found, expected, name)
    assert curves(found) == pytest.approx(curves(expected), rel=0.05 if name == "rough" else 1e-3, nan_ok=True)


@pytest.mark.parametrize("name", DIVIDED)
def test_checkpoints_go_from_two_to_one_and_from_one_to_two(folder: Path, name: str) -> None:
    expected = whole(name)
    assert_alike(kept(folder, name, "resumed"), expected, name)
    t = divided(name)
    t.load_state_dict(kept(folder, name, "half"))
    t.advance(t.spec.images)
    assert_alike(t.state_dict(), expected, name)


@pytest.mark.parametrize("name", DIVIDED)
def test_each_process_holds_half_of_weights_and_averages(folder: Path, name: str) -> None:
    alone = divided(name)
    alone.advance(alone.spec.images)
    data = sum(t.nbytes for t in [*alone._batches.tensors, *frozen(alone)])
    shares = [(int((folder / name / f"bytes-{rank}").read_text()) - data) / (alone.bytes() - data) for rank in RANKS]
    assert sum(shares) == pytest.approx(1.0, abs=0.1)  # steps are counted in both
    assert max(shares) < (0.8 if name == "gdd" else 0.6)  # whose discriminator is whole in each


def frozen(t: object) -> list[Tensor]:
    nets = t.nets  # type: ignore[attr-defined]
    return [
        p for net in (nets.encoder, nets.pretrained) if net is not None for p in (*net.parameters(), *net.buffers())
    ]
