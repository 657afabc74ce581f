"""GDD on EfficientNet-Lite0's maps, mixed at random, with the published weights; at 64 pixels and in float64."""

import copy
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from msd_ray.errors import UserError
from msd_ray.networks import PRETRAINED, DenoiserSpec, UNetConfig, efficientnet
from msd_ray.objectives import GDD, Batch, Nets
from msd_ray.objectives.random_projections import (
    MixedMaps,
    RandomMix,
    RandomProjectionsHead,
    SpectralConv,
    largest_singular_value,
)
from msd_ray.recipes import load_recipe

from .cases import rng, softplus

SPEC = DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=()), (1, 8, 8), 3)
GDD_64 = GDD(features="efficientnet-lite0", side=64)


@pytest.fixture(scope="module")
def nets() -> Nets:
    torch.manual_seed(0)
    generator = SPEC.build()
    made = Nets(generator, generator, pretrained=PRETRAINED["efficientnet-lite0"]())
    assert GDD_64.needs.head
    return replace(made, head=GDD_64.needs.head(made))


def batch() -> Batch:
    z, real = torch.randn(2, 3, *SPEC.sample_shape, generator=torch.Generator().manual_seed(1))
    return Batch(z, torch.tensor([0, 1, 2]), real.clamp(-1, 1), torch.tensor([1, 2, 0]), step=16)


def test_it_needs_the_network_in_place_of_the_teacher() -> None:
    assert GDD().needs.encoder and not GDD().needs.pretrained
    assert GDD_64.needs.pretrained in PRETRAINED and not GDD_64.needs.encoder
    assert GDD_64.needs.teacher == "none"


def test_maps_are_those_inside_the_published_network(nets: Nets) -> None:
    x, seen, published = torch.randn(2, 3, 64, 64), list[Tensor](), cast(Any, nets.pretrained)
    hooks = [published._blocks[i].register_forward_hook(lambda *of: seen.append(of[2])) for i in (2, 4, 10, 15)]
    published.extract_features(((x + 1) * 127.5 - 127) / 128)
    for hook in hooks:
        hook.remove()
    maps = efficientnet.feature_maps(published, x, 64)
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(maps, seen, strict=True))


def test_a_gradient_reaches_the_generator_and_nothing_that_is_frozen(nets: Nets) -> None:
    assert nets.pretrained is not None and nets.head is not None
    before = {name: value.clone() for name, value in nets.head.named_buffers()}
    draft = GDD_64.draft(nets, batch(), rng())
    loss = GDD_64.generator_loss(nets, draft, batch(), None, rng()).total
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in nets.generator.parameters())
    assert sum(float(p.grad.abs().sum()) for p in nets.generator.parameters() if p.grad is not None) > 0
    assert not any(p.requires_grad for p in nets.pretrained.parameters())
    assert all(torch.equal(before[name], value) for name, value in nets.head.named_buffers())
    assert not any(".mixed" in f".{name}" for name, _ in nets.head.named_parameters())
    logits = nets.head(efficientnet.feature_maps(nets.pretrained, draft.x, 64), draft.condition)
    assert logits.shape == (3, 4 * 4) and loss.item() == pytest.approx(softplus(list(logits.flatten()), -1).item())


def test_the_gradient_is_the_finite_difference(nets: Nets) -> None:
    x, condition = batch().z.double(), torch.tensor([0, 1, 2])
    exact = replace(nets, **{name: copy.deepcopy(getattr(nets, name)).double() for name in ("head", "pretrained")})

    def judged(x: Tensor) -> Tensor:
        return GDD_64._logits(exact, x, condition, rng()).sum()

    moved = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(judged(moved), moved)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=rng())
    with torch.no_grad():
        step = 1e-8 * direction
        found = (judged(x + step) - judged(x - step)) / 2e-8
    assert found.item() == pytest.approx((slope * direction).sum().item(), rel=1e-4)


def test_the_discriminator_trains_with_r1_and_tells_conditions_apart(nets: Nets) -> None:
    assert nets.head is not None
    nets.head.zero_grad()
    given = batch()
    loss = GDD_64.fake_loss(nets, given.z, given, rng())
    loss.total.backward()
    assert set(loss.parts) == {"head", "r1"} and loss.parts["r1"] > 0
    assert all(p.grad is not None for p in nets.head.parameters())
    with torch.no_grad():
        a, b = (GDD_64._logits(nets, given.z, torch.tensor(c), rng()) for c in ([0, 0, 0], [1, 0, 0]))
    changed = (a != b).any(dim=1)
    assert changed.tolist() == [True, False, False]


def test_vectors_stand_for_conditions_as_ids_do(nets: Nets) -> None:
    assert nets.head is not None and nets.pretrained is not None
    maps = efficientnet.feature_maps(nets.pretrained, batch().z, 64)
    assert torch.equal(nets.head(maps, torch.tensor([0, 2, 1])), nets.head(maps, torch.eye(3)[[0, 2, 1]]))


def test_without_conditions_places_are_logits() -> None:
    head = RandomProjectionsHead(efficientnet.CHANNELS, 128, 0)
    maps = [torch.randn(2, n, s, s) for n, s in zip(efficientnet.CHANNELS, (32, 16, 8, 4), strict=True)]
    assert head(maps, torch.zeros(2)).shape == (2, 4 * 9)


def test_finer_maps_see_coarser_ones_and_not_the_other_way_round() -> None:
    torch.manual_seed(0)
    mixed = MixedMaps(efficientnet.CHANNELS)
    maps = [torch.randn(1, n, s, s) for n, s in zip(efficientnet.CHANNELS, (16, 8, 4, 2), strict=True)]
    before = mixed(maps)
    assert [tuple(m.shape[1:]) for m in before] == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]
    for changed in range(4):
        after = mixed([m + (i == changed) for i, m in enumerate(maps)])
        assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [i <= changed for i in range(4)]


def test_projections_are_buffers_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return RandomProjectionsHead(efficientnet.CHANNELS, 64, 3).state_dict()

    one, again, other = drawn(1), drawn(1), drawn(2)
    mixes = [name for name in one if name.startswith("mixed.")]
    assert len(mixes) == 2 * 8 and not list(RandomMix(2, 3).parameters())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in mixes)


def test_the_largest_singular_value_follows_from_the_weight_alone() -> None:
    torch.manual_seed(0)
    start = torch.nn.functional.normalize(torch.randn(64), dim=0)
    matrix = torch.randn(64, 512)
    found, exact = largest_singular_value(matrix, start), torch.linalg.svdvals(matrix)[0]
    assert 0.93 * exact < found <= exact * (1 + 1e-6)
    matrix[0] *= 5  # one that stands out is found to the last digits
    assert largest_singular_value(matrix, start) == pytest.approx(float(torch.linalg.svdvals(matrix)[0]), rel=1e-5)
    conv = SpectralConv(3, 4, 3, bias=False)
    x = torch.randn(1, 3, 5, 5)
    once = conv(x)
    with torch.no_grad():
        conv.conv.weight *= 7
    assert torch.allclose(conv(x), once, atol=1e-6)


@pytest.mark.parametrize("side", [32, 100, 1056])
def test_sides_that_do_not_halve_five_times_are_refused(side: int) -> None:
    options = ["stages.gdd.options.features=efficientnet-lite0", f"stages.gdd.options.side={side}"]
    with pytest.raises(UserError, match=r"^stages.gdd.options.side: "):
        load_recipe("digits-gdd", options)
