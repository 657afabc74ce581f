"""Averages in the host's memory move weights as those beside them do; those in 8 bits almost so, in a quarter."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, MLPConfig, layers
from msd_ray.runs.training_checks import check_training
from msd_ray.training import adam, optimizer_state
from msd_ray.training.adam import Adam
from msd_ray.training.optimizer_state import StateKind
from msd_ray.training.student_trainer import StudentTrainer

from .cases import SPEC, staged, trainer

WIDTH = 96  # 9,216 numbers in a matrix, enough for 8 bits
KINDS: tuple[StateKind, ...] = ("fp32", "host", "int8")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


def regression(kind: StateKind, device: str = "cpu", how: Any = "adamw") -> tuple[nn.Linear, Callable[[int], float]]:
    """A layer, and what makes so many steps towards another's outputs and returns the last loss."""
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(256, WIDTH, generator=rng).to(device) for _ in range(2))
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WIDTH).to(device)
    optimizer = Adam(layer.parameters(), 1e-3, how, state=kind)

    def act(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.mse_loss(layer(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    act.optimizer = optimizer  # type: ignore[attr-defined]
    return layer, act


def moved(layer: nn.Linear) -> Tensor:
    """By how much training has changed the weights."""
    torch.manual_seed(0)
    return layer.weight.detach().cpu() - nn.Linear(WIDTH, WIDTH).weight.detach()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", ["adam", "adamw", "radam"])
def test_averages_in_the_hosts_memory_give_the_same_bits(
    how: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adam, "PORTION", 100)
    monkeypatch.setattr(layers, "IMAGINED_GPU", device == "cpu")  # they are fetched and brought back
    (beside, act), (apart, act_too) = regression("fp32", device, how), regression("host", device, how)
    assert act(20) == act_too(20)
    assert torch.equal(beside.weight, apart.weight) and torch.equal(beside.bias, apart.bias)


@pytest.mark.parametrize("how", ["adam", "adamw", "radam"])
def test_eight_bits_move_weights_almost_as_32_do(how: str) -> None:
    (exact, act), (rough, act_too) = regression("fp32", how=how), regression("int8", how=how)
    loss, first = act(100), regression("fp32")[1](1)
    assert act_too(100) == pytest.approx(loss, rel=0.02)
    assert loss < 0.9 * first
    apart = (moved(exact) - moved(rough)).norm() / moved(exact).norm()
    assert 1e-5 < apart < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(kind: StateKind) -> None:
    (whole, act), (first, act_first), (second, act_second) = (regression(kind) for _ in range(3))
    act(20)
    act_first(10)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    state = act_first.optimizer.tensors()  # type: ignore[attr-defined]
    act_second.optimizer.load({n: t.clone() for n, t in state.items()})  # type: ignore[attr-defined]
    act_second(10)
    assert torch.equal(whole.weight, second.weight) and torch.equal(whole.bias, second.bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("then", KINDS)
def test_what_one_kept_another_goes_on_from(kind: StateKind, then: StateKind) -> None:
    (_, act), (_, act_then) = regression(kind), regression(then)
    act(10)
    before = Adam(regression("fp32")[0].parameters(), 0.1)
    before.load(act.optimizer.tensors())  # type: ignore[attr-defined]
    act_then.optimizer.load(act.optimizer.tensors())  # type: ignore[attr-defined]
    after = Adam(regression("fp32")[0].parameters(), 0.1)
    after.load(act_then.optimizer.tensors())  # type: ignore[attr-defined]
    for name, value in before.tensors().items():
        assert torch.allclose(after.tensors()[name], value, atol=float(value.abs().max()) * 0.02), name


def test_what_averages_take_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "IMAGINED_GPU", True)
    taken, weights = {}, WIDTH * WIDTH
    for kind in KINDS:
        _, act = regression(kind)
        act(1)
        taken[kind] = sum(t.nbytes for t in act.optimizer.on_device())  # type: ignore[attr-defined]
    assert taken["fp32"] >= 8 * weights
    assert 2 * weights < taken["int8"] < 2.2 * weights
    assert taken["host"] < 100  # counts of steps


@pytest.mark.parametrize("objective", ["dm", "adm"])
def test_a_student_becomes_the_same_or_almost_the_same(objective: str) -> None:
    made = {kind: student(objective, kind) for kind in KINDS}
    for t in made.values():
        t.advance(t.spec.images)
    weights = {kind: t.state_dict().tensors["ema"] for kind, t in made.items()}
    for name, value in weights["fp32"].items():
        assert torch.equal(value, weights["host"][name])
        assert torch.allclose(value, weights["int8"][name], rtol=0, atol=2e-3)  # of 6 steps of 1e-3 at the most
    assert any(not torch.equal(v, weights["int8"][n]) for n, v in weights["fp32"].items())


def student(objective: str, kind: StateKind) -> StudentTrainer:
    spec = replace(staged([objective], images=48), denoiser=DenoiserSpec(MLPConfig(width=WIDTH, blocks=2), (2,), 4))
    return trainer(replace(spec, training=replace(SPEC.training, optimizer_state=kind)))


def test_eight_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer_state.byte_levels.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(UserError, match=r"^this needs bitsandbytes.*: pip install 'msd-ray\[int8\]'$"):
        Adam([nn.Parameter(torch.zeros(2))], 0.1, state="int8")
    recipe: Any = type("Recipe", (), {"training": replace(SPEC.training, optimizer_state="int8")})
    with pytest.raises(UserError, match="bitsandbytes"):
        check_training(recipe)
