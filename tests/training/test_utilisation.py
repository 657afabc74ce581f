from collections.abc import Callable

import pytest
import torch
from torch import nn

from msd_ray.training.utilisation import Operations, peak_of, utilisation

from .cases import SPEC, trainer


def operations_of(act: Callable[[], object]) -> float:
    with Operations() as counted:
        act()
    return float(counted.flops)


def test_operations_are_those_of_the_products() -> None:
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    forward = 2 * 3 * 5 * 7
    assert operations_of(lambda: layer(x)) == forward
    assert operations_of(lambda: layer(x).sum().backward()) == 2 * forward  # the input wants no gradient
    x.requires_grad_()
    assert operations_of(lambda: layer(x).sum().backward()) == 3 * forward


def test_counting_changes_no_weight() -> None:
    ours, counted = trainer(SPEC), trainer(SPEC)
    ours.advance(16)
    first, second = operations_of(lambda: counted.advance(8)), operations_of(lambda: counted.advance(8))
    assert first == second > 0
    for a, b in zip(ours.nets.generator.parameters(), counted.nets.generator.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Another card", None),
    ],
)
def test_a_card_is_known_by_its_name(card: str, peak: float | None) -> None:
    assert peak_of(card) == peak


def test_of_a_cpu_only_the_operations_are_known() -> None:
    used = utilisation(3e9, torch.device("cpu"))
    assert (used.flops, used.mfu, used.memory) == (3e9, None, 0)
