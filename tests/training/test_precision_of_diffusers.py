"""What saves memory with networks of diffusers: recomputation, and bf16 weights of a teacher that is frozen."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.networks import (
    DenoiserSpec,
    DiffusersConditionUNetConfig,
    DiffusersDiTConfig,
    DiffusersPixArtConfig,
    DiffusersSD3Config,
    DiffusersSDXLConfig,
    UNetConfig,
)
from msd_ray.training import precision
from msd_ray.training.config import TrainingConfig

pytest.importorskip("diffusers")
HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3}
LEVELS: dict[str, Any] = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
SD = DiffusersConditionUNetConfig(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=4,
    **LEVELS,
)
SDXL = DiffusersSDXLConfig(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(2, 4),
    transformer_layers_per_block=(1, 2),
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=64,
    **LEVELS,
)
NETWORKS: dict[str, tuple[Any, int, Tensor]] = {
    "sd": (SD, 32, torch.randn(2, 5, 32)),
    "sdxl": (SDXL, 32, torch.randn(2, 6, 32)),
    "pixart": (DiffusersPixArtConfig(**HEADS), 32, torch.cat([torch.randn(2, 5, 32), torch.ones(2, 5, 1)], dim=2)),
    "sd3": (DiffusersSD3Config(pooled_projection_dim=16, pos_embed_max_size=8, **HEADS), 32, torch.randn(2, 6, 32)),
    "dit": (DiffusersDiTConfig(**HEADS), 3, torch.tensor([0, 2])),
    "unet": (
        UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0),
        3,
        torch.tensor([0, 2]),
    ),
}
"""Each with the conditions that it knows, or the width of a prompt's tokens, and two of what it is given."""
ALL = pytest.mark.parametrize("name", NETWORKS)
X, SIGMA = torch.linspace(-1, 1, 2 * 256).view(2, 4, 8, 8), torch.tensor([0.3, 5.0])


def made(name: str) -> EDMDenoiser:
    """None of whose weights is zero."""
    network, classes, _ = NETWORKS[name]
    torch.manual_seed(0)
    denoiser = DenoiserSpec(network, (4, 8, 8), classes).build().eval()
    for p in denoiser.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.05)
    return denoiser


def answer(denoiser: EDMDenoiser, name: str) -> Tensor:
    return denoiser(X, SIGMA, NETWORKS[name][2])


def gradients(denoiser: EDMDenoiser, name: str) -> tuple[Tensor, Tensor]:
    """Of the input, and of the weights."""
    x = X.clone().requires_grad_()
    denoiser(x, SIGMA, NETWORKS[name][2]).square().mean().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return x.grad, torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])


def kept(denoiser: EDMDenoiser, name: str) -> int:
    """Bytes between the passes, weights among them."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        seen[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        answer(denoiser, name)
    return sum(seen.values())


@ALL
@pytest.mark.parametrize("how", [{}, {"precision": "bf16"}])
def test_recomputation_has_the_same_gradients_and_keeps_less(name: str, how: dict[str, Any]) -> None:
    plain = precision.apply(made(name), TrainingConfig(**how))
    again = precision.apply(made(name), TrainingConfig(recompute=True, **how))
    assert kept(again, name) < 0.6 * kept(plain, name)
    for one, other in zip(gradients(plain, name), gradients(again, name), strict=True):
        assert one.any() and torch.equal(one, other)


@ALL
def test_the_gradient_in_bf16_is_near_that_in_fp32(name: str) -> None:
    exact, rough = made(name), precision.apply(made(name), TrainingConfig(precision="bf16"))
    for one, other in zip(gradients(exact, name), gradients(rough, name), strict=True):
        assert 0 < (one - other).norm() < 0.1 * one.norm()


@ALL
def test_a_frozen_teacher_in_bf16_answers_alike_from_half_the_memory(name: str) -> None:
    training, teacher = TrainingConfig(precision="bf16"), made(name).requires_grad_(False)
    plain = precision.apply(copy.deepcopy(teacher), training)
    halved = precision.apply_frozen(teacher, training)
    sizes = [sum(p.nbytes for p in each.parameters()) for each in (plain, halved)]
    assert sizes[1] < 0.7 * sizes[0]
    assert torch.equal(answer(plain, name), answer(halved, name))
    products = []
    for each in (plain, halved):
        x = X.clone().requires_grad_()
        products += torch.autograd.grad(each(x, SIGMA, NETWORKS[name][2]).sum(), x)
    assert torch.equal(*products)
    features = [each.features(X, SIGMA, NETWORKS[name][2])[-1] for each in (plain, halved)]
    assert torch.equal(*features)


@ALL
def test_in_fp32_a_frozen_teacher_keeps_its_weights(name: str) -> None:
    halved = precision.apply_frozen(made(name), TrainingConfig())
    assert all(torch.equal(p, q) for p, q in zip(halved.parameters(), made(name).parameters(), strict=True))
