"""The kernels of norms against torch's functions: on a GPU, or with TRITON_INTERPRET=1 wherever Triton is installed."""

import os
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from msd_ray.networks.norm import group_norm, normed

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not find_spec("triton") or not (INTERPRETED or torch.cuda.is_available()), reason="no CUDA device or Triton"
    ),
]
SHAPES = [
    pytest.param(3, 24, 8, 6, id="small"),
    pytest.param(2, 70, 5, 7, id="odd"),
    pytest.param(40, 8, 12, 2, id="many samples"),
    pytest.param(1, 192, 40, 32, id="many pixels"),
]


def given(n: int, channels: int, size: int, affine: bool, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """x, weight, bias and perhaps scale and shift; and the gradient that comes back."""
    torch.manual_seed(0)
    x, dy = torch.randn(n, channels, size, size) + 0.5, torch.randn(n, channels, size, size)
    others = [torch.randn(channels), torch.randn(channels)]
    modulation = [torch.randn(n, 2 * channels).to(dtype)] if affine else []
    made = [x.to(dtype), *others, *modulation]
    return [t.to(DEVICE).requires_grad_() for t in made], dy.to(DEVICE, dtype)


def near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).float().norm() <= tolerance * b.float().norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("n", "channels", "size", "groups"), SHAPES)
def test_values_and_gradients_are_those_of_torch(
    n: int, channels: int, size: int, groups: int, affine: bool, silu: bool, dtype: torch.dtype, tolerance: float
) -> None:
    from msd_ray.networks.fused_norm import FusedNorm, plain

    inputs, dy = given(n, channels, size, affine, dtype)
    how = (*inputs, *([] if affine else [None]), groups, 1e-5, silu)
    made, expected = FusedNorm.apply(*how), plain(*how)
    assert made.dtype == dtype
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert near(made, expected, tolerance)
    found, wanted = (torch.autograd.grad(y, inputs, dy) for y in (made, expected))
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert near(a, b, tolerance)


def test_the_gradient_has_a_gradient() -> None:
    from msd_ray.networks.fused_norm import FusedNorm, plain

    inputs, dy = given(2, 8, 4, True, torch.float32)
    second = []
    for act in (FusedNorm.apply, plain):
        (first,) = torch.autograd.grad(act(*inputs, 2, 1e-5, True), inputs[0], dy, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), inputs))
    assert all(near(a, b, 1e-5) for a, b in zip(*second, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_maps_with_channels_last_under_autocast_take_the_kernels_and_others_do_not() -> None:
    norm = group_norm(32).cuda()
    x = torch.randn(2, 32, 8, 8, device="cuda")
    expected = normed(norm, x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        plain, fused = normed(norm, x.bfloat16()), normed(norm, x.bfloat16().to(memory_format=torch.channels_last))
    assert plain.dtype == torch.float32  # as autocast has norms
    assert fused.dtype == torch.bfloat16
    assert near(fused.float(), expected, 1e-2)
