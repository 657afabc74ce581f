from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.networks import DenoiserSpec, MLPConfig, SongUNetConfig, UNetConfig
from msd_ray.networks.embedding import fourier
from msd_ray.networks.layers import group_norm
from msd_ray.networks.unet import UNet
from msd_ray.objectives.discriminators import discriminator_head

TINY = UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=4, dropout=0.0)
SONG = SongUNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)
SPECS = {
    "unet": DenoiserSpec(TINY, (1, 4, 4), 3),
    "three levels": DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 2, 3), blocks=2, attention=()), (3, 8, 8), 3),
    "mlp": DenoiserSpec(MLPConfig(width=8, blocks=3), (2,), 3),
    "ddpm++": DenoiserSpec(replace(SONG, form="ddpm++"), (1, 8, 8), 3),
    "ncsn++": DenoiserSpec(replace(SONG, form="ncsn++"), (1, 8, 8), 3),
}


def built(spec: DenoiserSpec) -> nn.Module:
    """A raw network in float64 whose weights are all random: fresh ones are zero at the end of each branch."""
    torch.manual_seed(0)
    network = spec.build().network.double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def inputs(spec: DenoiserSpec, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(n, *spec.sample_shape, generator=rng, dtype=torch.float64)
    return x, torch.linspace(-1.0, 1.0, n, dtype=torch.float64), torch.arange(n) % 3


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> DenoiserSpec:
    return SPECS[request.param]


def test_shapes_of_output_and_features(spec: DenoiserSpec) -> None:
    network, (x, c_noise, condition) = built(spec), inputs(spec)
    assert network(x, c_noise, condition).shape == x.shape
    shapes = [tuple(f.shape) for f in network.encode(x, c_noise, condition)]
    assert shapes == [(3, *shape) for shape in network.feature_shapes]
    assert network.bottleneck_shape == network.feature_shapes[-1]


def test_there_are_features_of_every_resolution() -> None:
    network = built(SPECS["three levels"])
    assert network.feature_shapes == [(4, 8, 8), (8, 4, 4), (12, 2, 2)]
    assert built(SPECS["mlp"]).feature_shapes == [(8,)]


@pytest.mark.parametrize("name", ["unet", "three levels"])
def test_a_resolutions_features_are_the_last_before_the_next_one(name: str) -> None:
    network, (x, c_noise, condition) = built(SPECS[name]), inputs(SPECS[name])
    embedding, h, last = network.embedding(c_noise, condition), network.conv_in(x), []
    for block in network.down:
        if block.resample:
            last.append(h)
        h = block(h, embedding)
    features = network.encode(x, c_noise, condition)
    assert all(torch.equal(a, b) for a, b in zip(features, [*last, h], strict=True))


def test_noise_level_condition_and_input_all_matter(spec: DenoiserSpec) -> None:
    network, (x, c_noise, condition) = built(spec), inputs(spec)
    resolutions = range(len(network.feature_shapes))
    for ask in (network, *(lambda *question, i=i: network.encode(*question)[i] for i in resolutions)):
        out = ask(x, c_noise, condition)
        for changed in (ask(x + 0.5, c_noise, condition), ask(x, c_noise + 0.5, condition)):
            assert ((out - changed).flatten(1).abs().amax(dim=1) > 1e-3).all()
        other_class = ask(x, c_noise, torch.tensor([0, 2, 2]))  # only the second sample's differs
        moved = (out - other_class).flatten(1).abs().amax(dim=1)
        assert moved[1] > 1e-3
        assert moved[0] == moved[2] == 0


def test_samples_of_a_batch_do_not_mix(spec: DenoiserSpec) -> None:
    network, (x, c_noise, condition) = built(spec), inputs(spec)
    alone = torch.cat([network(x[i : i + 1], c_noise[i : i + 1], condition[i : i + 1]) for i in range(3)])
    assert torch.allclose(network(x, c_noise, condition), alone, atol=1e-12)


def test_a_one_hot_embedding_is_the_class_index(spec: DenoiserSpec) -> None:
    network, (x, c_noise, condition) = built(spec), inputs(spec)
    one_hot = F.one_hot(condition, 3).double()
    assert torch.allclose(network(x, c_noise, condition), network(x, c_noise, one_hot), atol=1e-12)
    assert not torch.allclose(network(x, c_noise, condition), network(x, c_noise, 0.5 * one_hot), atol=1e-3)


def test_without_classes_the_condition_is_ignored() -> None:
    network = built(DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 0))
    x, c_noise, condition = inputs(SPECS["mlp"])
    assert torch.equal(network(x, c_noise, condition), network(x, c_noise, condition + 1))


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_gradients_are_the_finite_differences(name: str) -> None:
    """Of a random projection of the output, along random directions in all parameters and the input together."""
    spec = SPECS[name]
    network, (x, c_noise, condition) = built(spec), inputs(spec)
    values = [x.requires_grad_(True), *network.parameters()]
    rng = torch.Generator().manual_seed(2)
    projection = torch.randn(x.shape, generator=rng, dtype=torch.float64)

    def value() -> Tensor:
        return (projection * network(x, c_noise, condition)).sum()

    gradients = torch.autograd.grad(value(), values)
    for _ in range(8):
        directions = [torch.randn(v.shape, generator=rng, dtype=torch.float64) for v in values]
        slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
        assert finite_difference(value, values, directions) == pytest.approx(slope, rel=1e-6, abs=1e-6)


@torch.no_grad()
def finite_difference(
    value: Callable[[], Tensor], at: list[Tensor], directions: list[Tensor], h: float = 1e-6
) -> float:
    def moved(by: float) -> float:
        for v, d in zip(at, directions, strict=True):
            v += by * d
        return value().item()

    above, below, _ = moved(h), moved(-2 * h), moved(h)
    return (above - below) / (2 * h)


def test_a_fresh_unet_answers_zero_and_an_untrained_denoiser_c_skip_x() -> None:
    spec = SPECS["unet"]
    x, sigma = torch.randn(2, 1, 4, 4), torch.tensor([0.5, 2.0])
    denoiser = spec.build().eval()
    assert torch.equal(denoiser.network(x, sigma, torch.tensor([0, 1])), torch.zeros_like(x))
    expected = (0.25 / (sigma**2 + 0.25))[:, None, None, None] * x
    assert torch.allclose(denoiser(x, sigma, torch.tensor([0, 1])), expected)


def test_the_embedding_scales_around_one_and_shifts_around_zero() -> None:
    """A block whose affine layer answers zero is a plain residual block and not a dead one."""
    network, (x, c_noise, condition) = built(SPECS["unet"]), inputs(SPECS["unet"])
    block = network.down[0]
    nn.init.zeros_(block.affine.weight)
    nn.init.zeros_(block.affine.bias)
    h = network.conv_in(x)
    inner = F.silu(block.norm1(block.conv0(F.silu(block.norm0(h)))))
    expected = h + block.conv1(inner)
    assert torch.allclose(block(h, network.embedding(c_noise, condition)), block.attention(expected), atol=1e-12)


def test_attention_is_where_it_was_asked_for() -> None:
    def attending(config: UNetConfig) -> int:
        return sum(type(m).__name__ == "Attention" for m in UNet(config, (1, 8, 8), 0).modules())

    def config(attention: tuple[int, ...]) -> UNetConfig:
        return UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=attention)

    assert attending(config(())) == 1  # the middle always attends
    assert attending(config((4,))) == 1 + 1 + 2  # blocks on the way down, one more on the way up
    assert attending(config((8, 4))) == 1 + 2 + 4


def test_attention_divides_its_channels_among_heads_that_fit() -> None:
    from msd_ray.networks.unet import Attention

    assert [Attention(c, 64).heads for c in (32, 64, 192, 768, 208)] == [1, 1, 3, 12, 2]  # 208 / 3 is not whole
    x = torch.randn(2, 208, 2, 2)
    assert torch.equal(Attention(208, 64)(x), x)  # the identity until trained


def test_dropout_acts_in_training_mode_only() -> None:
    torch.manual_seed(0)
    network = (
        DenoiserSpec(UNetConfig(channels=8, multipliers=(1,), blocks=1, dropout=0.5), (1, 4, 4), 0).build().network
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, c_noise, none = torch.randn(2, 1, 4, 4), torch.zeros(2), torch.zeros(2)
    network.eval()
    assert torch.equal(network(x, c_noise, none), network(x, c_noise, none))
    network.train()
    assert not torch.equal(network(x, c_noise, none), network(x, c_noise, none))


@pytest.mark.parametrize("channels", [4, 12, 20, 64, 104, 192, 768])
def test_group_norm_has_whole_groups_of_at_least_four(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert channels // groups >= 4
    assert groups <= 32


def test_fourier_features_are_cosines_and_sines_of_falling_rates() -> None:
    out = fourier(torch.tensor([0.0, 2.0]), 4, max_period=100.0)
    assert torch.allclose(out[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    rates = torch.tensor([1.0, 0.1])
    assert torch.allclose(out[1], torch.cat([(2 * rates).cos(), (2 * rates).sin()]))


@pytest.mark.parametrize(("given", "made"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_fourier_features_are_as_exact_as_the_noise_level_and_no_coarser_than_float32(given: str, made: str) -> None:
    c_noise = torch.tensor([0.5, 2.0], dtype=getattr(torch, given))
    out = fourier(c_noise, 4, max_period=100.0)
    assert out.dtype == getattr(torch, made)
    angles = c_noise.double()[:, None] * torch.tensor([1.0, 0.1], dtype=torch.float64)
    expected = torch.cat([angles.cos(), angles.sin()], dim=1)
    assert torch.allclose(out.double(), expected, rtol=4 * torch.finfo(out.dtype).eps, atol=0)


def test_the_discriminator_head_is_dmd2s_on_8_by_8_maps() -> None:
    head = discriminator_head((32, 8, 8))
    convolutions = [m for m in head if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size, m.stride) for m in convolutions] == [((4, 4), (2, 2)), ((4, 4), (4, 4)), ((1, 1), (1, 1))]
    names = [type(m).__name__ for m in head]
    assert names == ["Conv2d", "GroupNorm", "SiLU", "Conv2d", "GroupNorm", "SiLU", "Conv2d", "Flatten"]
    assert head(torch.randn(5, 32, 8, 8)).shape == (5, 1)


@pytest.mark.parametrize("shape", [(8,), (8, 2, 2), (8, 3, 3), (8, 4, 4), (8, 5, 5), (8, 16, 16)])
def test_heads_give_one_logit_that_depends_on_every_feature(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, *shape, requires_grad=True)
    logits = discriminator_head(shape)(features)
    assert logits.shape == (2, 1)
    (gradient,) = torch.autograd.grad(logits[0, 0], features)
    assert (gradient[0] != 0).float().mean() > 0.99
    assert (gradient[1] == 0).all()


def test_a_bottleneck_of_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 x 2"):
        discriminator_head((8, 1, 1))
