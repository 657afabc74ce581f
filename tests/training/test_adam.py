"""The optimizers are torch's own to the last bit, and survive a checkpoint."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from msd_ray.training.adam import Adam

THEIRS: dict[str, Any] = {
    "adam": lambda p, **how: optim.Adam(p, fused=True, **how),
    "adamw": lambda p, **how: optim.AdamW(p, fused=True, **how),
    "radam": optim.RAdam,
}
HOW: dict[str, Any] = {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.25}


def weights(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """A matrix, a vector, and one that never gets a gradient."""
    rng = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=dtype)) for shape in ((3, 4), (7,), (2,))]


def step(optimizer: Any, parameters: list[nn.Parameter], number: int) -> None:
    optimizer.zero_grad()
    for i, p in enumerate(parameters[: 1 + (number > 2)]):  # the vector joins later
        p.grad = torch.cos(p.detach() * (number + i))
    optimizer.step()


def equal(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_step_is_torchs(kind: Any, dtype: torch.dtype) -> None:
    ours, theirs = weights(dtype), weights(dtype)
    a, b = Adam(ours, kind=kind, **HOW), THEIRS[kind](theirs, **HOW)
    for number in range(12):
        a.lr = b.param_groups[0]["lr"] = 0.1 / (1 + number)
        step(a, ours, number)
        step(b, theirs, number)
        assert equal(ours, theirs)
    assert not equal(ours, weights(dtype))
    state = b.state_dict()["state"]
    expected = {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}
    assert a.tensors().keys() == expected.keys()
    for name, value in a.tensors().items():
        assert torch.equal(value, expected[name]) and value.dtype == expected[name].dtype, name


@pytest.mark.parametrize("kind", THEIRS)
def test_it_survives_packing(kind: Any) -> None:
    ours = weights()
    first = Adam(ours, kind=kind, **HOW)
    for number in range(4):
        step(first, ours, number)
    packed: dict[str, Tensor] = copy.deepcopy(first.tensors())
    assert {"0.step", "0.exp_avg", "0.exp_avg_sq"} < set(packed)
    others = [nn.Parameter(p.detach().clone()) for p in ours]
    second = Adam(others, kind=kind, **HOW)
    second.load(packed)
    for number in range(4, 8):
        step(first, ours, number)
        step(second, others, number)
        assert equal(ours, others)


def test_torchs_compiler_is_not_imported_for_it() -> None:
    """It takes a second of every process that begins to train."""
    code = (
        "import sys; from tests.training.test_adam import HOW, Adam, step, weights; w = weights(); "
        "step(Adam(w, **HOW), w, 0); assert 'torch.optim' in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_state_that_is_loaded_is_taken_without_a_copy() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.ones(3, 2)
    before = Adam([weight], 0.1)
    before.step()
    kept = {name: value.clone() for name, value in before.tensors().items()}
    after = Adam([weight], 0.1)
    after.load(kept)
    assert {n: t.data_ptr() for n, t in after.tensors().items()} == {n: t.data_ptr() for n, t in kept.items()}
