"""Flow trajectory distillation and DFOSD against re-derivations with explicit loops, and where they rest."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.diffusion import Noise, NoiseTable
from msd_ray.networks import DenoiserSpec, PictureUNetConfig
from msd_ray.objectives import DFOSD, FlowTrajectory, Nets, Objective, Pairs

from .cases import (
    NOISE,
    SPECS,
    B,
    Case,
    at_levels,
    denoised,
    fake_loss,
    fake_parameters,
    features,
    generator_loss,
    generator_parameters,
    gradients,
    huber,
    lognormal,
    rng,
    same_loss,
    softplus,
)

START = NOISE.sigma_init
PICTURES = torch.rand(3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
"""Of the conditions 0 to 2."""


@pytest.fixture(params=["mlp", "unet", "pictures"])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """`pictures`: a student that begins with the picture that its condition is."""
    kind = PictureUNetConfig(unet=SPECS["unet"].network, begins="picture")  # type: ignore[arg-type]
    monkeypatch.setitem(SPECS, "pictures", DenoiserSpec(kind, (1, 4, 4), 4))
    case = Case(request.param)
    if request.param == "pictures":
        b, pairs = case.batch, pairs_of(case)
        shown = Pairs(pairs.z, pairs.x, PICTURES[pairs.condition])
        case.batch = type(b)(b.z, PICTURES[b.condition], b.real, PICTURES[case.real_condition], shown)
    return case


def pairs_of(case: Case) -> Pairs:
    assert case.batch.pairs is not None
    return case.batch.pairs


def origin(condition: Tensor) -> Tensor:
    """What noise is added to: nothing, or the picture."""
    return F.interpolate(condition, (4, 4), mode="bicubic") if condition.ndim == 4 else torch.zeros(())


def expected_flow(case: Case, endpoint_weight: float) -> tuple[Tensor, Tensor]:
    """In the coordinates of a rectified flow, y = (1 - t) u + t z: the velocity (y - D) / t is to lead from y to x."""
    pairs, low, high = pairs_of(case), START / (1 + START), 80 / 81
    u, x = origin(pairs.condition).expand_as(pairs.x), pairs.x
    times = [low + (high - low) * float(share) for share in torch.rand(B, generator=rng(), dtype=torch.float64)]
    levels = [t / (1 - t) for t in times]
    y = [(1 - t) * u[i] + t * pairs.z[i] for i, t in enumerate(times)]
    seen = torch.stack([each / (1 - t) for each, t in zip(y, times, strict=True)])
    x0 = denoised(case.nets.generator, seen, levels, pairs.condition)
    squares = [(((y[i] - x0[i]) / t - (y[i] - x[i]) / t) ** 2).mean() for i, t in enumerate(times)]
    made = denoised(case.nets.generator, u + START * pairs.z, [START] * B, pairs.condition)
    endpoint = torch.stack([huber(made[i], x[i]) for i in range(B)]).mean()
    trajectory = torch.stack(squares).mean()
    return trajectory + endpoint_weight * endpoint, trajectory


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_velocity_leads_from_the_line_of_noise_and_picture_to_the_pairs_image(case: Case, weight: float) -> None:
    loss = generator_loss(case, FlowTrajectory(NOISE, weight))
    total, trajectory = expected_flow(case, weight)
    same_loss(loss.total, total, generator_parameters(case))
    assert loss.parts["trajectory"].item() == pytest.approx(trajectory.item())


def test_times_are_drawn_from_the_beginning_to_pure_noise() -> None:
    case, objective = Case("mlp"), FlowTrajectory(NOISE)
    drafts = [objective.draft(case.nets, case.batch, torch.Generator().manual_seed(i)) for i in range(500)]
    t = torch.cat([draft.sigma / (1 + draft.sigma) for draft in drafts])
    low, high = START / (1 + START), 80 / 81
    assert low <= t.min() < low + 0.01 and high - 0.01 < t.max() <= high
    assert t.mean().item() == pytest.approx((low + high) / 2, abs=0.01)


def test_a_table_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of a table"):
        FlowTrajectory(Noise(table=NoiseTable("cosine", 1000)))


def sobel(image: Tensor) -> list[Tensor]:
    """The slopes across and down of an image [H, W], at each pixel that is not at the border."""
    found, (high, wide) = [], image.shape
    for i in range(1, high - 1):
        for j in range(1, wide - 1):
            for a in (image, image.T):
                r, c = (i, j) if a is image else (j, i)
                right, left = (a[r - 1, s] + 2 * a[r, s] + a[r + 1, s] for s in (c + 1, c - 1))
                found.append((right - left) / 8)
    return found


def judged(case: Case, x: Tensor, condition: Tensor, source: torch.Generator) -> list[Tensor]:
    """All logits of samples that are noised at levels of their own."""
    assert case.nets.encoder is not None and case.nets.head is not None
    sigmas = lognormal(source, -0.5, 0.9)
    maps = features(case.nets.encoder, at_levels(x, sigmas, source), sigmas, condition)
    return [logit for each in maps for logit in case.nets.head(each).flatten()]


OBJECTIVE = DFOSD(NOISE, edge_weight=0.6, gan_weight=0.2, p_mean=-0.5, p_std=0.9)


def test_dfosd_compares_each_image_and_its_edges_and_has_it_judged_under_noise(case: Case) -> None:
    loss = generator_loss(case, OBJECTIVE)
    begun = origin(case.real_condition) + START * case.batch.z
    x = denoised(case.nets.generator, begun, [START] * B, case.real_condition)
    regression = ((x - case.real) ** 2).mean()
    edge = torch.zeros(())
    if x.ndim == 4:
        slopes = [zip(sobel(x[i, 0]), sobel(case.real[i, 0]), strict=True) for i in range(B)]
        edge = torch.stack([(a - b) ** 2 for one in slopes for a, b in one]).mean()
    gan = softplus(judged(case, x, case.real_condition, rng()), -1)
    same_loss(loss.total, regression + 0.6 * edge + 0.2 * gan, generator_parameters(case))
    expected = {"regression": regression.item(), "edges": edge.item(), "gan": gan.item()}
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(expected)


def test_dfosds_discriminator_tells_images_of_their_own_pictures_apart(case: Case) -> None:
    loss, source = fake_loss(case, OBJECTIVE).total, rng()
    begun = origin(case.batch.condition) + START * case.batch.z
    x = denoised(case.nets.generator, begun, [START] * B, case.batch.condition).detach()
    on_fake = softplus(judged(case, x, case.batch.condition, source))
    same_loss(loss, on_fake + softplus(judged(case, case.real, case.real_condition, source), -1), fake_parameters(case))


def test_dfosds_discriminator_trains_alone_and_the_encoder_stays(case: Case) -> None:
    fake_loss(case, OBJECTIVE).total.backward()
    generator_loss(case, OBJECTIVE).total.backward()
    assert case.nets.encoder is not None and case.nets.head is not None
    assert all(p.grad is not None for p in case.nets.head.parameters())
    assert all(p.grad is None for network in (case.nets.fake, case.nets.encoder) for p in network.parameters())


class Says(nn.Module):
    """A generator that says the same samples whatever it is asked."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x.clone())

    def forward(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.x


@pytest.mark.parametrize("objective", [FlowTrajectory(NOISE), DFOSD(NOISE, gan_weight=0.0)])
def test_it_rests_where_the_student_says_each_image_and_only_there(case: Case, objective: Objective) -> None:
    """DFOSD's regression: its GAN rests where nobody can tell, which is no matter of one image."""
    goal = pairs_of(case).x if objective.needs.pairs else case.real
    nets: Any = case.equip(objective)
    for away in (0.0, 1e-3):
        generator: Any = Says(goal + away)
        ours = Nets(generator, nets.fake, nets.head, encoder=nets.encoder)
        source = rng()
        draft = objective.draft(ours, case.batch, source)
        loss = objective.generator_loss(ours, draft, case.batch, None, source).total
        (gradient,) = gradients(loss, [generator.x])
        if away:
            assert loss.item() > 0 and (gradient > 0).all()
        else:
            assert loss.item() == 0 and not gradient.any()
