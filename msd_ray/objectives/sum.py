"""Weighted sums of objectives in one stage, as rCM (arXiv 2510.08431) sums consistency and distribution matching."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from msd_ray.diffusion import Noise
from msd_ray.objectives.base import Batch, Draft, Loss, Needs, Nets, Objective, TrainsFake
from msd_ray.objectives.methods import OBJECTIVES

_RANKS = ("none", "output", "gradient")


@dataclass(frozen=True)
class Term:
    """One objective of a sum, and its weight in the generator's loss."""

    name: str
    weight: float
    objective: Objective

    def nets(self, nets: Nets) -> Nets:
        """As it sees them: what is kept between updates has the term's name before its own."""
        own = f"{self.name}."
        kept = {key.removeprefix(own): value for key, value in nets.memory.items() if key.startswith(own)}
        return replace(nets, memory=kept)


@dataclass(frozen=True)
class SumDraft(Draft):
    """drafts: one of each term. answers: the teacher's to each, None where there is none yet. asking: numbers of the
    terms whose questions are this one, one after the other in x_t, sigma and condition."""

    drafts: tuple[Draft, ...] = ()
    answers: tuple[Tensor | None, ...] = ()
    asking: tuple[int, ...] = ()

    @classmethod
    def of(cls, drafts: Sequence[Draft], answers: Sequence[Tensor | None], asking: Sequence[int]) -> "SumDraft":
        asked = [drafts[i] for i in asking] or drafts[:1]
        x_t, sigma, condition = (torch.cat([getattr(d, name) for d in asked]) for name in ("x_t", "sigma", "condition"))
        return cls(drafts[0].x, x_t, sigma, condition, None, tuple(drafts), tuple(answers), tuple(asking))

    def answered(self, teacher_x0: Tensor | None) -> list[Tensor | None]:
        """Each term's answer, with this one's divided among those that ask."""
        answers = list(self.answers)
        if teacher_x0 is not None:
            sizes = [len(self.drafts[i].x_t) for i in self.asking]
            for i, answer in zip(self.asking, torch.split(teacher_x0, sizes), strict=True):
                answers[i] = answer if self.drafts[i].x_t.requires_grad else answer.detach()
        return answers


@dataclass(frozen=True)
class Sum:
    """terms: the options of each objective, by its name, and beside them its `weight`, 1 if left out. The generator's
    loss is the weighted sum. At most one term may train a fake score, which then trains as if it were alone; optimizers
    are that term's, or the first one's."""

    noise: Noise = Noise()
    terms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needs = [term.objective.needs for term in self._terms]
        if len(needs) < 2:
            raise ValueError("terms: a sum needs at least two objectives")
        if any(n.head for n in needs):
            raise ValueError("terms: an objective with a discriminator cannot be summed")
        if sum(n.fake for n in needs) > 1:
            raise ValueError("terms: two objectives that train a fake score cannot be summed")
        if sum(n.target_decay is not None for n in needs) > 1:
            raise ValueError("terms: two objectives with a target cannot be summed")
        if any(n.makes != "generator" for n in needs):
            raise ValueError("terms: objectives that make a denoiser cannot be summed")

    @cached_property
    def _terms(self) -> tuple[Term, ...]:
        return tuple(self._term(name, dict(options)) for name, options in self.terms.items())

    def _term(self, name: str, options: dict[str, Any]) -> Term:
        if name not in OBJECTIVES:
            raise ValueError(f"terms: there is no objective {name!r} that can be summed, only {', '.join(OBJECTIVES)}")
        weight = options.pop("weight", 1.0)
        if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"terms.{name}.weight must be a number above 0, not {weight!r}")
        try:
            return Term(name, weight, OBJECTIVES[name](noise=self.noise, **options))
        except TypeError as error:
            raise ValueError(f"terms.{name}: {error}") from None

    @cached_property
    def needs(self) -> Needs:
        each = [term.objective.needs for term in self._terms]
        decays = [n.target_decay for n in each if n.target_decay is not None]
        return Needs(
            teacher=max((n.teacher for n in each), key=_RANKS.index),
            follow_up=self._follow_up if any(n.follow_up for n in each) else None,
            real_data=any(n.real_data for n in each),
            pairs=any(n.pairs for n in each),
            own_pairs=any(n.own_pairs for n in each),
            fake=any(n.fake for n in each),
            encoder=any(n.encoder for n in each),
            memory=self._memory if any(n.memory for n in each) else None,
            minimised=tuple(name for n in each for name in n.minimised),
            boundary=any(n.boundary for n in each),
            frozen=tuple(name for n in each for name in n.frozen),
            target_decay=decays[0] if decays else None,
            optimization=next((n for n in each if n.fake), each[0]).optimization,
            complete_from=max(n.complete_from for n in each),
            few_steps=all(n.few_steps for n in each),
            phases=all(n.phases for n in each),
        )

    def draft(self, nets: Nets, batch: Batch, rng: torch.Generator) -> Draft:
        drafts = [term.objective.draft(term.nets(nets), batch, rng) for term in self._terms]
        asking = [i for i, term in enumerate(self._terms) if term.objective.needs.teacher != "none"]
        return SumDraft.of(drafts, [None] * len(drafts), asking)

    def generator_loss(
        self, nets: Nets, draft: Draft, batch: Batch, teacher_x0: Tensor | None, rng: torch.Generator
    ) -> Loss:
        assert isinstance(draft, SumDraft)
        total, parts = draft.x.new_zeros(()), dict[str, Tensor]()
        for term, own, answer in zip(self._terms, draft.drafts, draft.answered(teacher_x0), strict=True):
            loss = term.objective.generator_loss(term.nets(nets), own, batch, answer, rng)
            total, parts = total + term.weight * loss.total, parts | loss.parts
        return Loss(total, parts)

    def fake_loss(self, nets: Nets, x: Tensor, batch: Batch, rng: torch.Generator) -> Loss:
        term = next(term for term in self._terms if term.objective.needs.fake)
        return cast(TrainsFake, term.objective).fake_loss(term.nets(nets), x, batch, rng)

    def _memory(self, nets: Nets, sample_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        kept = [(term.name, memory) for term in self._terms if (memory := term.objective.needs.memory)]
        return {f"{name}.{key}": size for name, memory in kept for key, size in memory(nets, sample_shape).items()}

    def _follow_up(self, draft: Draft, teacher_x0: Tensor) -> Draft:
        """The second question of those terms that have one; the others keep their answers."""
        assert isinstance(draft, SumDraft)
        drafts, answers, asking = list(draft.drafts), draft.answered(teacher_x0), []
        for i, term in enumerate(self._terms):
            answer, follow_up = answers[i], term.objective.needs.follow_up
            if follow_up and answer is not None:
                drafts[i], answers[i] = follow_up(drafts[i], answer), None
                asking.append(i)
        return SumDraft.of(drafts, answers, asking)
