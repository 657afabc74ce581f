"""The kernels of norms against torch's functions: on a GPU, or with TRITON_INTERPRET=1 wherever Triton is installed."""

import os
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from msd_ray.networks import SongUNetConfig, UNetConfig, layers
from msd_ray.networks.layers import group_norm, normed

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


def given(n: int, channels: int, size: int, others: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """x, the norm's weight and shift, and perhaps a modulation and a bias; and the gradient that comes back."""
    torch.manual_seed(0)
    x, dy = torch.randn(n, channels, size, size) + 0.5, torch.randn(n, channels, size, size)
    own = [torch.randn(channels), torch.randn(channels)]
    more = [torch.randn(n, 2 * channels).to(dtype), torch.randn(channels)][:others]
    return [t.to(DEVICE).requires_grad_() for t in (x.to(dtype), *own, *more)], dy.to(DEVICE, dtype)


def near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).float().norm() <= tolerance * b.float().norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("others", [0, 1, 2])
@pytest.mark.parametrize(("n", "channels", "size", "groups"), SHAPES)
def test_values_and_gradients_of_a_norm_are_those_of_torch(
    n: int, channels: int, size: int, groups: int, others: int, silu: bool, dtype: torch.dtype, tolerance: float
) -> None:
    from msd_ray.networks.fused_layers import FusedNorm, plain_norm

    inputs, dy = given(n, channels, size, others, dtype)
    how = (inputs[0], None, *inputs[1:], *[None] * (2 - others), groups, 1e-5, silu)
    made, expected = FusedNorm.apply(*how)[0], plain_norm(*how)
    assert made.dtype == dtype
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert near(made, expected, tolerance)
    found, wanted = (torch.autograd.grad(y, inputs, dy) for y in (made, expected))
    for a, b in zip(found[:4], wanted[:4], strict=True):
        assert a.dtype == b.dtype
        assert near(a, b, tolerance)
    if others == 2:  # a norm takes most of a bias away, and so of its gradient
        assert (found[4] - wanted[4]).norm() <= tolerance * wanted[2].norm()


@pytest.mark.parametrize("first", [1, 3, 9, 64])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("n", "channels", "size", "groups"), SHAPES)
def test_two_maps_are_normed_as_one_and_what_is_kept_adds_its_gradient(
    n: int, channels: int, size: int, groups: int, kept: bool, first: int
) -> None:
    from msd_ray.networks.fused_layers import FusedNorm, plain_norm

    inputs, dy = given(n, channels, size, 0, torch.float32)
    whole, first = inputs[0].detach(), min(first, channels - 1)  # a group may lie in both
    pair = [part.clone().requires_grad_() for part in whole.split([first, channels - first], dim=1)]
    made, *again = FusedNorm.apply(*pair, *inputs[1:], None, None, groups, 1e-5, True)
    expected = plain_norm(inputs[0], None, *inputs[1:], None, None, groups, 1e-5, True)
    assert near(made, expected, 2e-6)
    assert all(torch.equal(a, b) for a, b in zip(again, pair, strict=True))
    more = torch.randn_like(whole)
    loss = (made * dy).sum() + (torch.cat(again, dim=1) * more).sum() * kept
    found = torch.autograd.grad(loss, [*pair, *inputs[1:]])
    wanted = torch.autograd.grad((expected * dy).sum() + (inputs[0] * more).sum() * kept, inputs)
    assert near(torch.cat(found[:2], dim=1), wanted[0], 2e-6)
    assert all(near(a, b, 2e-6) for a, b in zip(found[2:], wanted[1:], strict=True))


def test_what_is_kept_alone_passes_its_gradient_on() -> None:
    from msd_ray.networks.fused_layers import FusedNorm

    inputs, dy = given(2, 8, 4, 0, torch.float32)
    _, kept, other = FusedNorm.apply(inputs[0], None, *inputs[1:], None, None, 2, 1e-5, True)
    assert other is None
    assert torch.equal(torch.autograd.grad(kept, inputs[0], dy)[0], dy)


@pytest.mark.parametrize("others", [1, 2])
def test_the_gradient_has_a_gradient(others: int) -> None:
    """Of one map, or of two, with what is kept of them."""
    from msd_ray.networks.fused_layers import FusedNorm, plain_norm

    (x, *rest), dy = given(2, 8, 4, 2, torch.float32)
    maps = [x, None] if others == 1 else [part.clone().detach().requires_grad_() for part in x.split([3, 5], dim=1)]
    inputs, second = [t for t in (*maps, *rest) if t is not None], []
    for fused in (True, False):
        if fused:
            made, kept, _ = FusedNorm.apply(*maps, *rest, 2, 1e-5, True)
        else:
            made, kept = plain_norm(maps[0], maps[1], *rest, 2, 1e-5, True), maps[0]  # type: ignore[arg-type]
        loss = (made * dy).sum() + kept.pow(3).sum()
        (first,) = torch.autograd.grad(loss, maps[0], create_graph=True)  # type: ignore[arg-type]
        second.append(torch.autograd.grad(first.square().sum(), inputs))
    assert all(near(a, b, 1e-5) for a, b in zip(*second, strict=True))


@pytest.mark.parametrize(("n", "channels", "size", "groups"), SHAPES)
def test_a_sum_with_a_bias_is_that_of_torch(n: int, channels: int, size: int, groups: int) -> None:
    from msd_ray.networks.fused_layers import FusedSum

    (x, bias, *_), dy = given(n, channels, size, 0, torch.bfloat16)
    h = dy.flip(0).requires_grad_()
    made, expected = FusedSum.apply(x, h, bias), x.float() + h.float() + bias[:, None, None]
    assert near(made.float(), expected, 5e-3)
    found, wanted = torch.autograd.grad(made, (x, h, bias), dy), torch.autograd.grad(expected, (x, h, bias), dy.float())
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert near(found[2], wanted[2], 1e-5)


UNET = UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=4, dropout=0.0)
SONG = SongUNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)


@pytest.mark.parametrize("config", [UNET, SONG], ids=["unet", "songunet"])
def test_a_network_computes_alike_with_the_kernels(
    config: UNetConfig | SongUNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_ray.networks import fused_layers

    torch.manual_seed(0)
    network = config.build((3, 8, 8), 4).to(DEVICE).eval()
    for p in network.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    network.to(memory_format=torch.channels_last)
    x = torch.randn(3, 3, 8, 8, device=DEVICE).to(memory_format=torch.channels_last).requires_grad_()
    sigma, condition = torch.rand(3, device=DEVICE), torch.arange(3, device=DEVICE)
    inputs, outs = [x, *network.parameters()], []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for module in (None, fused_layers):
        monkeypatch.setattr(layers, "_fused", lambda _, module=module: module)
        made = network(x, sigma, condition)
        outs.append([made, *torch.autograd.grad(made.square().sum(), inputs)])
    for expected, found in zip(*outs, strict=True):
        assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-4


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


@pytest.mark.parametrize(("n", "channels", "size", "groups"), [(3, 24, 8, 6), (2, 70, 6, 7)])
@pytest.mark.parametrize("name", ["doubled", "halved"])
def test_halving_and_doubling_are_those_of_torch(
    name: str, n: int, channels: int, size: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_ray.networks import fused_layers

    (x, *_), _ = given(n, channels, size, 0, torch.float32)
    expected = getattr(layers, name)(x)
    monkeypatch.setattr(layers, "_fused", lambda _: fused_layers)
    made, dy = getattr(layers, name)(x), torch.randn_like(expected)
    assert torch.allclose(made, expected, atol=1e-6)
    assert torch.allclose(*(torch.autograd.grad(y, x, dy)[0] for y in (made, expected)), atol=1e-6)
