"""Low-rank adapters on layers: what they compute, what of a network is its own, and peft as the reference."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from msd_ray.networks import Adapter, DenoiserSpec, MLPConfig, StudentSize, UNetConfig
from msd_ray.networks.adapters import (
    attach,
    copied,
    count_own,
    draw,
    load_own,
    merged,
    own_parameters,
    own_tensors,
)
from msd_ray.networks.denoiser_spec import stored_parameters
from msd_ray.training.state import bytes_of

UNET = DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0), (1, 8, 8), 3)
MLP = DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 3)
ADAPTER = Adapter(rank=3, alpha=6.0)


def filled(spec: DenoiserSpec) -> Any:
    torch.manual_seed(1)
    network = spec.build().eval()
    for p in network.parameters():
        nn.init.normal_(p, std=0.3)
    return network


def adapted(spec: DenoiserSpec) -> Any:
    """With adapters that change every weight."""
    network = attach(filled(spec), ADAPTER)
    for _, p in own_parameters(network):
        nn.init.normal_(p, std=0.3)
    return network


def answer(network: Any, spec: DenoiserSpec, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(4, *spec.sample_shape, generator=rng, dtype=dtype)
    return network(x, torch.full((4,), 0.7, dtype=dtype), torch.arange(4) % 3)  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv2d(4, 6, 3, padding=1, stride=2)])
def test_gradients_are_those_of_the_merged_weight_by_the_chain_rule(layer: nn.Module) -> None:
    """y = f(W + (alpha / r) B A): dA = (alpha / r) B^T dW and dB = (alpha / r) dW A^T, in float64."""
    conv, layer = isinstance(layer, nn.Conv2d), copy.deepcopy(layer).double()
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight, bias = layer.weight.detach().clone(), layer.bias
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64) if conv else torch.randn(3, 5, dtype=torch.float64)
    attach(layer, Adapter(rank=2, alpha=3.0))
    a, b = (p for _, p in own_parameters(layer))
    for p in (a, b):
        nn.init.normal_(p)
    layer(x).square().sum().backward()

    whole = (weight + 1.5 * (b.flatten(1) @ a.flatten(1)).view_as(weight)).detach().requires_grad_()
    y = F.conv2d(x, whole, bias, 2, 1) if conv else F.linear(x, whole, bias)
    y.square().sum().backward()  # type: ignore[no-untyped-call]
    assert whole.grad is not None and a.grad is not None and b.grad is not None
    change = whole.grad.flatten(1)
    torch.testing.assert_close(a.grad.flatten(1), 1.5 * b.detach().flatten(1).T @ change, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(b.grad.flatten(1), 1.5 * change @ a.detach().flatten(1).T, rtol=1e-12, atol=1e-12)
    assert bias is not None and bias.grad is None


@pytest.mark.parametrize("spec", [MLP, UNET])
def test_adapters_begin_without_effect_and_merge_into_a_plain_network(spec: DenoiserSpec) -> None:
    plain, network = filled(spec), attach(filled(spec), ADAPTER)
    draw(network)
    assert torch.equal(answer(network, spec), answer(plain, spec))
    network = adapted(spec)
    assert not torch.allclose(answer(network, spec), answer(plain, spec))
    other = spec.build().eval()
    other.load_state_dict(merged(plain.state_dict(), own_tensors(network), ADAPTER))
    assert torch.equal(answer(other, spec), answer(network, spec))


@pytest.mark.parametrize("spec", [MLP, UNET])
def test_copies_share_the_base_and_nothing_else(spec: DenoiserSpec) -> None:
    network = adapted(spec)
    other, base = copied(network), 4 * spec.parameters()
    held = [t for n in (network, other) for t in n.state_dict().values()]
    assert bytes_of(held) == base + 2 * 4 * count_own(network)
    assert torch.equal(answer(other, spec), answer(network, spec))
    with torch.no_grad():
        own_parameters(other)[1][1].add_(1)
    assert not torch.equal(answer(other, spec), answer(network, spec))
    load_own(other, own_tensors(network))
    assert torch.equal(answer(other, spec), answer(network, spec))


def test_only_adapters_are_its_own() -> None:
    network = adapted(MLP)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in own_tensors(network))
    trainable = [p for p in network.parameters() if p.requires_grad]
    assert {*map(id, trainable)} == {id(p) for _, p in own_parameters(network)}
    assert count_own(network) == MLP.own_parameters(ADAPTER) < MLP.parameters()
    assert stored_parameters([(MLP, ADAPTER)] * 5) == MLP.parameters() + 5 * MLP.own_parameters(ADAPTER)
    with pytest.raises(RuntimeError, match="other names or ranks"):
        load_own(network, own_tensors(attach(filled(MLP), Adapter(rank=2))))


def test_a_plain_network_is_its_own_whole() -> None:
    network = filled(MLP)
    assert own_tensors(network).keys() == network.state_dict().keys()
    assert [name for name, _ in own_parameters(network)] == [name for name, _ in network.named_parameters()]
    assert StudentSize().adapter is None


@pytest.mark.slow
def test_peft_computes_the_same_from_the_same_files() -> None:
    peft = pytest.importorskip("peft")
    network, reference = adapted(UNET), filled(UNET)
    linear = [name for name, part in reference.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    own = own_tensors(network)
    ranks = {name: len(own[f"{name}.lora_A.weight"]) for name in linear}
    config = peft.LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=linear,
        rank_pattern=ranks,
        alpha_pattern={name: 2 * rank for name, rank in ranks.items()},
    )
    peft.inject_adapter_in_model(config, reference)
    found = peft.set_peft_model_state_dict(reference, own)
    assert not found.unexpected_keys
    torch.testing.assert_close(answer(reference.eval(), UNET), answer(network, UNET), rtol=1e-5, atol=1e-5)
