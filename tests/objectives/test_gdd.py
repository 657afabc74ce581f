"""GDD: a GAN on the frozen teacher's features, with R1; GDD-I trains only part of the generator."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.objectives import GDD, Batch, Nets
from msd_ray.objectives.discriminators import ProjectedHead
from msd_ray.objectives.gdd import INNATE

from .cases import (
    NOISE,
    B,
    Case,
    at_levels,
    fake_loss,
    fake_parameters,
    features,
    generator_loss,
    generator_parameters,
    gradients,
    made,
    rng,
    same,
    same_loss,
    softplus,
)

SIGMA = 0.2


def logits(nets: Nets, x: Tensor, condition: Tensor, source: torch.Generator) -> list[list[Tensor]]:
    """Each sample's, one for each resolution of the encoder."""
    assert nets.encoder is not None
    assert isinstance(nets.head, ProjectedHead)
    x_t, heads = at_levels(x, [SIGMA] * B, source), nets.head.heads
    maps = features(nets.encoder, x_t, [SIGMA] * B, condition)
    return [[head(f).squeeze() for head, f in zip(heads, fs, strict=True)] for fs in maps]


def flat(judged: list[list[Tensor]]) -> list[Tensor]:
    return [logit for sample in judged for logit in sample]


def test_generator_loss_is_the_non_saturating_one(case: Case) -> None:
    loss = generator_loss(case, GDD(NOISE, sigma=SIGMA)).total
    expected = softplus(flat(logits(case.nets, made(case), case.batch.condition, rng())), -1)
    assert case.nets.generator.sigma_min == 0.002  # `made` knows the boundary-corrected preconditioning
    same_loss(loss, expected, generator_parameters(case))


def expected_gan(case: Case, real: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    source = rng()
    on_fake = logits(case.nets, made(case).detach(), case.batch.condition, source)
    on_real = logits(case.nets, real, case.real_condition, source)
    return softplus(flat(on_fake)) + softplus(flat(on_real), -1), on_real


def heads_of(case: Case) -> list[torch.nn.Parameter]:
    assert case.nets.head is not None
    return list(case.nets.head.parameters())


def test_between_the_regularised_updates_the_discriminators_loss_is_the_gans(case: Case) -> None:
    objective = GDD(NOISE, sigma=SIGMA)
    loss = fake_loss(case, objective, step=1)
    expected, _ = expected_gan(case, case.real)
    same_loss(loss.total, expected, heads_of(case))
    assert set(loss.parts) == {"head"}


def test_r1_adds_the_squared_gradient_on_real_samples(case: Case) -> None:
    objective = GDD(NOISE, sigma=SIGMA, r1=0.3, r1_every=4)
    loss = fake_loss(case, objective, step=8)
    real = case.real.clone().requires_grad_(True)
    gan, on_real = expected_gan(case, real)
    squares = []
    for i in range(B):
        (slope,) = torch.autograd.grad(sum(on_real[i]), real, create_graph=True)  # type: ignore[arg-type]
        assert all((slope[j] == 0).all() for j in range(B) if j != i)
        squares.append((slope[i] ** 2).sum())
    penalty = 4 * 0.3 / 2 * torch.stack(squares).mean() / len(on_real[0])  # the official GAN loss sums over heads
    same_loss(loss.total, gan + penalty, heads_of(case))
    assert loss.parts["r1"].item() == pytest.approx(penalty.item())


def test_r1_is_the_finite_difference(case: Case) -> None:
    objective = GDD(NOISE, sigma=SIGMA, r1=2.0, r1_every=1)
    ours = fake_loss(case, objective, step=1).parts["r1"].item()

    @torch.no_grad()
    def judged(moved: Tensor) -> Tensor:
        """The sum of each sample's logits, for real samples that moved by this."""
        source = rng()
        torch.randn(case.real.shape, generator=source, dtype=torch.float64)  # the noise on the generated samples
        return torch.stack([torch.stack(s).sum() for s in logits(case.nets, case.real + moved, condition, source)])

    condition, squares, h = case.real_condition, torch.zeros(B, dtype=torch.float64), 1e-5
    for element in range(case.real[0].numel()):
        step = torch.zeros_like(case.real).flatten(1)
        step[:, element] = h
        step = step.reshape(case.real.shape)
        squares += ((judged(step) - judged(-step)) / (2 * h)) ** 2
    assert isinstance(case.nets.head, ProjectedHead)
    assert ours == pytest.approx(squares.mean().item() / len(case.nets.head.heads), rel=1e-5)


@pytest.mark.parametrize(("r1_every", "regular"), [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (16, [])])
def test_r1_comes_every_r1_every_updates(r1_every: int, regular: list[int]) -> None:
    case, objective = Case("mlp"), GDD(NOISE, r1_every=r1_every)
    nets = case.equip(objective)
    losses = [fake_loss(case, objective, nets, step=step) for step in range(7)]
    assert [step for step, loss in enumerate(losses) if "r1" in loss.parts] == regular


def test_without_its_weight_there_is_no_r1() -> None:
    case, objective = Case("mlp"), GDD(NOISE, r1=0.0, r1_every=1)
    assert set(fake_loss(case, objective, step=1).parts) == {"head"}


def test_r1_passes_through_an_encoder_that_attends() -> None:
    """Fused attention has no second derivative; this holds as long as torch does not choose it here."""
    spec = DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (1, 8, 8), 0)
    torch.manual_seed(0)
    generator, encoder = spec.build(), spec.build().requires_grad_(False)
    nets = Nets(generator, generator, encoder=encoder)
    objective = GDD()
    assert objective.needs.head is not None
    nets = replace(nets, head=objective.needs.head(nets))
    z, none = torch.randn(2, 1, 8, 8), torch.zeros(2)
    objective.fake_loss(nets, z, Batch(z, none, z, none, step=16), rng()).total.backward()
    assert nets.head is not None
    assert all(p.grad is not None for p in nets.head.parameters())


def test_no_gradient_reaches_the_encoder_or_the_other_sides_weights(case: Case) -> None:
    objective = GDD(NOISE)
    nets = case.equip(objective)
    assert nets.encoder is not None
    before = {name: value.clone() for name, value in nets.encoder.state_dict().items()}
    fake_loss(case, objective, nets).total.backward()
    assert all(p.grad is None for p in generator_parameters(case))
    assert all(p.grad is not None for p in heads_of(case))
    generator_loss(case, objective).total.backward()
    assert all(p.grad is not None for p in generator_parameters(case))
    assert all(p.grad is None and not p.requires_grad for p in nets.encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in nets.encoder.state_dict().items())


def test_the_fake_score_takes_no_part(case: Case) -> None:
    objective = GDD(NOISE)
    loss = fake_loss(case, objective).total
    everything = gradients(loss, fake_parameters(case))
    fakes = len(list(case.nets.fake.parameters()))
    assert all((g == 0).all() for g in everything[:fakes])
    same(everything[fakes:], gradients(loss, heads_of(case)))


def test_there_is_a_head_for_each_resolution_also_for_one_of_a_single_pixel() -> None:
    shapes: list[tuple[int, ...]] = [(8, 4, 4), (8, 2, 2), (8, 1, 1), (8,)]
    head = ProjectedHead(shapes)
    maps = [torch.randn(5, *shape) for shape in shapes]
    judged = head(maps)
    assert judged.shape == (5, 4)
    for i in range(4):  # each logit follows from its own features
        other = [m + 1 if i == j else m for j, m in enumerate(maps)]
        changed = (head(other) != judged).any(dim=0)
        assert changed.tolist() == [i == j for j in range(4)]


# What GDD-I leaves as it is.


def frozen(network: UNetConfig | MLPConfig, shape: tuple[int, ...], classes: int) -> set[str]:
    with torch.device("meta"):
        names = [name for name, _ in DenoiserSpec(network, shape, classes).build().named_parameters()]
    return {name for name in names if any(re.search(pattern, name) for pattern in INNATE)}


def test_gdd_i_freezes_convolutions_and_projections_inside_the_blocks_of_a_unet() -> None:
    held = frozen(UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(4,)), (1, 8, 8), 3)
    layers = {name.rsplit(".", 2)[-2] for name in held}
    assert layers == {"conv0", "conv1", "proj"}
    assert all(re.match(r"network\.(down|middle|up)\.\d+\.", name) for name in held)
    blocks = 3 + 2 + 5  # down, middle, up
    assert len([name for name in held if name.endswith("conv0.weight")]) == blocks


def test_gdd_i_freezes_the_hidden_layers_of_an_mlp() -> None:
    held = frozen(MLPConfig(width=8, blocks=2), (2,), 3)
    assert {name.rsplit(".", 1)[0] for name in held} == {
        f"network.{half}.0.{layer}" for half in ("encoder", "decoder") for layer in ("hidden", "out")
    }


def test_gdd_i_has_the_same_losses(case: Case) -> None:
    gdd, innate = (generator_loss(case, GDD(NOISE, innate=innate)).total.item() for innate in (False, True))
    assert gdd == innate
    assert GDD(innate=True).needs.frozen == INNATE
    assert not GDD().needs.frozen
