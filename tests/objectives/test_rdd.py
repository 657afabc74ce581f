"""RDD against a re-derivation with explicit loops over pixels, its queue, and where it rests."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.objectives import PD
from msd_ray.objectives.rdd import ENQUEUED, RDD, divergence

from .cases import (
    NOISE,
    B,
    Case,
    features,
    generator_gradient,
    generator_loss,
    generator_parameters,
    gradients,
    rng,
    same_loss,
)

SIGMA = 0.2


def said(case: Case, objective: RDD) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """The student's samples and its teacher's, their conditions, and the stream after the question's noise."""
    source, nets, pd = rng(), case.equip(objective), PD(NOISE, objective.steps, objective.teacher)
    draft, x0 = pd.draft(nets, case.batch, source), None
    if pd.needs.follow_up:
        draft = pd.needs.follow_up(draft, case.teacher(draft.x_t, draft.sigma, draft.condition).detach())
        x0 = case.teacher(draft.x_t, draft.sigma, draft.condition).detach()
    ours, theirs, _ = pd.said_and_meant(nets, draft, x0)
    return ours, theirs, draft.condition, source


def kl(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of two rows of logits: how far our distribution is from theirs."""
    p, q = torch.exp(theirs) / torch.exp(theirs).sum(), torch.exp(ours) / torch.exp(ours).sum()
    return torch.sum(p * torch.log(p / q))


def pixels_of(case: Case, x: Tensor, condition: Tensor, noise: Tensor) -> list[Tensor]:
    """Of each sample the bottleneck's pixels, [pixels, d]."""
    assert case.nets.encoder is not None
    maps = features(case.nets.encoder, x + SIGMA * noise, [SIGMA] * B, condition)
    return [each[-1].reshape(each[-1].shape[1], -1).T for each in maps]


def unit(row: Tensor) -> Tensor:
    return row / row.norm()


def expected(case: Case, objective: RDD, queue: list[Tensor]) -> dict[str, Tensor]:
    """The three comparisons of features; `queue`, of rows of any length, gains the teacher's pixels."""
    ours, theirs, condition, source = said(case, objective)
    noise = torch.randn(ours.shape, generator=source, dtype=torch.float64)
    a, b = pixels_of(case, ours, condition, noise), pixels_of(case, theirs.detach(), condition, noise)
    means = [kl(a[i].mean(0), b[i].mean(0) / 0.9) for i in range(B)]
    a, b = ([torch.stack([unit(pixel) for pixel in one]) for one in each] for each in (a, b))
    among = [kl(a[j] @ p, b[j] @ q) for i in range(B) for j in range(B) for p, q in zip(a[i], b[i], strict=True)]
    rows = torch.cat(b)
    queue[:0] = [rows[i] for i in torch.randperm(len(rows), generator=source)[:ENQUEUED]]
    known = torch.stack([unit(row) for row in queue[: objective.queue]])
    kept = [kl(known @ p / 0.1, known @ q / 0.1) for i in range(B) for p, q in zip(a[i], b[i], strict=True)]
    return {name: torch.stack(each).mean() for name, each in (("means", means), ("batch", among), ("queue", kept))}


OBJECTIVE = RDD(NOISE, 2, output_weight=0.4, means_weight=0.9, batch_weight=0.7, queue_weight=0.3, queue=11)


@pytest.mark.parametrize("who", ["frozen", "before"])
@pytest.mark.parametrize("steps", [1, 2])
def test_it_is_as_derived(case: Case, steps: int, who: Any) -> None:
    objective = replace(OBJECTIVE, steps=steps, teacher=who)
    loss = generator_loss(case, objective)
    d = case.nets.memory["queue"].shape[1]
    terms = expected(case, objective, [torch.ones(d, dtype=torch.float64)] * 11)
    pd = generator_loss(case, PD(NOISE, steps, who)).total
    total = 0.4 * pd + 0.9 * terms["means"] + 0.7 * terms["batch"] + 0.3 * terms["queue"]
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        {"pd": pd.item(), **{name: term.item() for name, term in terms.items()}}, rel=1e-5
    )
    for ours, theirs in zip(
        gradients(loss.total, generator_parameters(case)), gradients(total, generator_parameters(case)), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)  # the queue is kept in float32


def test_alone_the_squared_error_is_progressive_distillation(case: Case) -> None:
    alone = RDD(NOISE, 2, output_weight=1.0, means_weight=0.0, batch_weight=0.0, queue_weight=0.0)
    loss = generator_loss(case, alone).total
    same_loss(loss, generator_loss(case, PD(NOISE, 2)).total, generator_parameters(case))


def test_it_rests_where_the_student_says_what_its_teachers_steps_mean(case: Case, monkeypatch: Any) -> None:
    def meant(*asked: Any) -> tuple[Tensor, Tensor, Tensor]:
        ours, theirs, sigma = original(*asked)
        return ours, ours.detach() if rests else theirs, sigma

    original, objective, rests = PD.said_and_meant, replace(OBJECTIVE, means_weight=0.0), True
    monkeypatch.setattr(PD, "said_and_meant", meant)
    _, still = generator_gradient(case, objective)
    assert all(g.abs().max() < 1e-9 for g in still)
    rests = False
    assert any(g.abs().max() > 1e-6 for g in generator_gradient(case, objective)[1])


def test_a_divergence_is_zero_of_the_same_distribution_alone() -> None:
    a, b = torch.randn(2, 3, 4, 5, generator=rng())
    assert divergence(a, a + 3).abs() < 1e-6 and divergence(a, b) > 0.1
    assert divergence(a, b) == pytest.approx(
        torch.stack([kl(p, q) for p, q in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]).mean().item()
    )


def test_the_queue_keeps_the_teachers_newest_pixels_and_no_infinite_ones(case: Case) -> None:
    loss, nets = generator_loss(case, OBJECTIVE), case.nets
    first = nets.memory["queue"].clone()
    assert torch.isfinite(loss.total) and first.shape[0] == 11
    known = (first.norm(dim=1) - 1).abs() < 1e-5
    pixels = B * (4 if len(case.shape) > 1 else 1)
    assert known.sum() == min(pixels, 11) and known[0] and torch.equal(first[~known], torch.ones_like(first[~known]))
    draft = OBJECTIVE.draft(nets, case.batch, rng())
    draft = OBJECTIVE.needs.follow_up(draft, draft.x_t)  # type: ignore[misc]
    OBJECTIVE.generator_loss(nets, draft, case.batch, draft.x_t * torch.inf, rng())
    assert torch.equal(nets.memory["queue"], first)
