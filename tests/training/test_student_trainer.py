import copy
import gc
import re
import weakref
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_ray.data import in_memory
from msd_ray.diffusion import Noise, few_steps
from msd_ray.errors import TrainingError, UserError
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.objectives import OBJECTIVES, Needs, Pairs, generated
from msd_ray.objectives.gdd import INNATE
from msd_ray.teachers import Answer
from msd_ray.training import optimizer
from msd_ray.training.adam import Adam
from msd_ray.training.batches import Batches, Draw
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.ema import EMAConfig
from msd_ray.training.student_spec import Extras
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.validation import in_range

from ..gradients import last_gradients
from .cases import (
    ADM,
    BATCH,
    CONDITIONS,
    DM,
    OWNED,
    REAL,
    SPEC,
    Spy,
    SpyAnswer,
    assert_same,
    original,
    pairs_of,
    parts,
    staged,
    trained,
    trainer,
)


def differ(a: StudentTrainer, b: StudentTrainer) -> bool:
    return not torch.equal(parts(a)["generator"]["network.first.weight"], parts(b)["generator"]["network.first.weight"])


def resumed(t: StudentTrainer) -> StudentTrainer:
    """A new trainer from the state, as slots make it, in a process whose random state is another one."""
    state = copy.deepcopy(t.state_dict())
    torch.manual_seed(t.nimg + 100)
    fresh = trainer(t.spec, blank=True)
    torch.randn(t.nimg + 1)
    fresh.load_state_dict(state)
    return fresh


# A student's future depends on (recipe, seed, student, nimg) alone.


@pytest.mark.parametrize(
    "cuts",
    [[8] * 8, [16, 16, 8, 24], [40, 24], [39, 1, 24], [48, 16], [1, 1, 1, 64], [64, 64]],
    ids=lambda cuts: "-".join(map(str, cuts)),
)
@pytest.mark.parametrize("restart", [True, False], ids=["resumed", "kept"])
def test_the_result_is_the_same_bit_for_bit_however_training_is_cut(cuts: list[int], restart: bool) -> None:
    whole, t = trained(), trainer()
    for images in cuts:
        t.advance(images)
        t = resumed(t) if restart else t
    assert t.done
    assert_same(t, whole)


def test_the_cut_at_the_border_of_two_stages_is_the_old_stages_state() -> None:
    t = trainer()
    t.advance(40)
    state = t.state_dict()
    assert (state.meta["nimg"], state.meta["stage"], t.stage) == (40, "dm", "dm")
    assert "head.adm" not in state.tensors
    t.advance(1)
    assert t.stage == "adm"
    assert "head.adm" in t.state_dict().tensors


def test_a_state_from_before_the_first_image_can_be_resumed() -> None:
    t = resumed(trainer())
    assert t.stage == ""
    t.advance(SPEC.images)
    assert_same(t, trained())


def test_the_discriminator_outlives_a_stage_that_does_not_use_it() -> None:
    short = {"images": 16}
    stages = {"a": replace(ADM, **short), "b": replace(DM, **short), "c": replace(ADM, **short)}
    spec = replace(SPEC, stages=stages)
    t = trainer(spec)
    while not t.done:
        t.advance(8)
        t = resumed(t)
    assert_same(t, trained(spec))


SEQUENCES = [
    *([name] for name in OBJECTIVES),
    ["tsm", "dm", "adm"],
    ["sid", "sida"],
    ["o2mkd", "f-distill", "adm", "f-distill"],
    ["gdd", "consistency", "dmd"],
]


@pytest.mark.parametrize("objectives", SEQUENCES, ids="-".join)
@pytest.mark.parametrize("segment", [8, 20])
def test_so_it_is_for_every_objective_and_through_their_stages(objectives: list[str], segment: int) -> None:
    spec = staged(objectives)
    whole, t = trained(spec), trainer(spec)
    while not t.done:
        t.advance(segment)
        t = resumed(t)
    assert_same(t, whole)
    assert all(torch.isfinite(value).all() for values in parts(t).values() for value in values.values())
    needs = [spec.objective(stage).needs for stage in spec.stages]
    assert {part for part in parts(t) if part.startswith("head.")} == {
        f"head.{name}" for name, n in zip(objectives, needs, strict=True) if n.head
    }
    assert ("memory" in parts(t)) == bool(needs[-1].memory)
    assert ("fake_optimizer" in parts(t)) == bool(needs[-1].fake or needs[-1].head)


FEW_STEPS = Noise(steps=(5.0, 0.4))


@pytest.mark.parametrize(
    "objectives", [["dm", "adm"], ["sid", "sida"], ["tsm", "f-distill"], ["consistency"]], ids="-".join
)
def test_so_it_is_with_a_few_steps(objectives: list[str]) -> None:
    spec = replace(staged(objectives), noise=FEW_STEPS)
    whole, t = trained(spec), trainer(spec)
    while not t.done:
        t.advance(8)
        t = resumed(t)
    assert_same(t, whole)
    assert differ(t, trained(staged(objectives)))


def test_so_it_is_with_random_anchors() -> None:
    fixed = replace(staged(["adm", "fd"]), noise=FEW_STEPS)
    spec = replace(fixed, training=replace(fixed.training, anchors="random"))
    whole, t = trained(spec), trainer(spec)
    while not t.done:
        t.advance(8)
        t = resumed(t)
    assert_same(t, whole)
    assert differ(t, trained(fixed))


SUM = replace(DM, objective="sum", options={"terms": {"consistency": {"levels": 6}, "dm": {"weight": 0.5}}})


@pytest.mark.parametrize("shards", [1, 2])
def test_so_it_is_with_a_sum(shards: int) -> None:
    spec = replace(SPEC, stages={"dm": DM, "sum": replace(SUM, images=24)}, shards=shards)
    whole, t = trained(spec), trainer(spec)
    while not t.done:
        t.advance(8)
        t = resumed(t)
    assert_same(t, whole)
    assert {m.name for m in whole.metrics if m.stage == "sum"} >= {"consistency", "dm", "fake_score"}


def test_a_round_of_progressive_distillation_learns_from_the_student_as_it_was_before() -> None:
    rounds = {n: replace(DM, objective="pd", images=24, options={"steps": n, "teacher": "before"}) for n in (2, 1)}
    spec = replace(SPEC, stages={f"pd{n}": stage for n, stage in rounds.items()})
    whole, t = trained(spec), trainer(spec)
    while not t.done:
        t.advance(8)
        t = resumed(t)
    assert_same(t, whole)
    before = trained(replace(spec, stages={"pd2": rounds[2]}))
    same = parts(whole)["target"], parts(before)["generator"]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
    shared = replace(spec, stages={name: replace(s, shared=name == "pd2") for name, s in spec.stages.items()})
    assert shared.begins_afresh("pd1") == ("optimizers",)


def test_only_a_sum_of_the_same_terms_goes_on_from_a_shared_stage() -> None:
    other = replace(SUM, options={"terms": {"consistency": {}, "dmd": {}}})
    for before, goes_on in [(SUM, True), (other, False)]:
        spec = replace(SPEC, stages={"trunk": replace(before, shared=True), "sum": SUM})
        assert spec.begins_afresh("sum") == (() if goes_on else ("optimizers",))


@pytest.mark.parametrize(
    ("stage", "shards", "why"),
    [
        (replace(DM, objective="dmd"), 1, "noise.steps: dmd .stages.dm. trains generators of a single step only"),
        (DM, 4, "stages.dm.batch: 2 samples in a shard cannot be divided among the 3 steps"),
    ],
)
def test_a_few_steps_that_a_stage_cannot_train_are_refused(stage: StageConfig, shards: int, why: str) -> None:
    with pytest.raises(UserError, match=why):
        replace(SPEC, stages={"dm": stage}, noise=FEW_STEPS, shards=shards)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_the_generator_and_what_it_needs_beside_it(name: str) -> None:
    t = trainer(staged([name]))
    before = copy.deepcopy(parts(t))
    t.advance(24)
    needs = t.spec.objective(f"0-{name}").needs
    for part, trains in [("generator", True), ("ema", True), ("fake", needs.fake)]:
        moved = [not torch.equal(before[part][key], value) for key, value in parts(t)[part].items()]
        assert any(moved) == trains
    assert t.makes_samples == (needs.makes == "generator")


def test_a_memory_is_kept_within_its_stage_and_begins_anew_in_the_next() -> None:
    t = trainer(staged(["f-distill", "f-distill"]))
    t.advance(24)
    first = parts(t)["memory"]["ratio"].clone()
    assert not torch.equal(first, torch.ones(10))
    assert torch.equal(resumed(t).nets.memory["ratio"], first)
    t._networks.enter("1-f-distill")
    assert torch.equal(t.nets.memory["ratio"], torch.ones(10))


def test_after_a_stage_that_makes_a_denoiser_the_fake_score_begins_as_the_generator() -> None:
    for first, expected in [("tsm", True), ("o2mkd", True), ("consistency", False)]:
        t = trainer(staged([first, "dm"], fake_steps=0))
        t.advance(24)
        generator, fake = copy.deepcopy(parts(t)["generator"]), copy.deepcopy(parts(t)["fake"])
        t = resumed(t)
        t.advance(8)
        begins = generator if expected else fake
        assert all(torch.equal(begins[name], value) for name, value in parts(t)["fake"].items())
        assert any(not torch.equal(generator[name], fake[name]) for name in fake)


def test_the_fake_score_can_begin_from_weights_of_its_own() -> None:
    generator, fake = original().state_dict(), SPEC.denoiser.build().state_dict()
    t = trainer(initial=generator, extras=Extras(fake=fake))
    assert all(torch.equal(fake[name], value) for name, value in parts(t)["fake"].items())
    for part in ("generator", "ema"):
        assert all(torch.equal(generator[name], value) for name, value in parts(t)[part].items())


def triples(pairs: Pairs) -> set[tuple[float, ...]]:
    rows = zip(pairs.z.tolist(), pairs.x.tolist(), pairs.condition.tolist(), strict=True)
    return {(*z, *x, c) for z, x, c in rows}


def test_pairs_are_of_all_classes_and_belong_together() -> None:
    pairs = pairs_of(SPEC)
    batches = Batches(SPEC, OWNED, None, pairs, torch.device("cpu"))
    drawn = [batches.draw(Draw("any", 0, i, BATCH, Needs(pairs=True), 0, 0), BATCH)[0].pairs for i in range(30)]
    seen = set().union(*(triples(some) for some in drawn if some))
    assert seen == triples(pairs)
    assert {c for *_, c in seen} == {0, 1, 2, 3}  # the student owns 1 and 3


def test_pairs_can_be_those_of_the_students_own_conditions() -> None:
    pairs, own = pairs_of(SPEC), Needs(pairs=True, own_pairs=True)
    batches = Batches(SPEC, OWNED, None, pairs, torch.device("cpu"))
    drawn = [batches.draw(Draw("any", 0, i, BATCH, own, 0, 0), BATCH)[0].pairs for i in range(30)]
    seen = set().union(*(triples(some) for some in drawn if some))
    assert seen == {row for row in triples(pairs) if row[-1] in (1, 3)}


def test_the_objective_is_told_the_updates_that_the_stage_has_seen() -> None:
    t = trainer(staged(["gdd", "gdd"], images=32, fake_steps=1))
    rows = t.advance(64)
    drawn = [t._draw("any", 0, seen)[0] for seen in (0, 8, 24)]
    assert [(batch.step, batch.seen) for batch in drawn] == [(0, 0), (1, 8), (3, 24)]
    regular = {(r.stage, r.nimg) for r in rows if r.name == "r1"}  # every second update of each stage but its first
    assert regular == {("0-gdd", 32), ("1-gdd", 64)}


def test_an_earlier_state_can_be_loaded_into_a_later_trainer() -> None:
    t = trainer()
    t.advance(16)
    early = copy.deepcopy(t.state_dict())
    t.advance(40)
    t.load_state_dict(early)
    assert (t.nimg, t.stage) == (16, "dm")
    t.advance(SPEC.images)
    assert_same(t, trained())


def test_a_blank_trainer_takes_no_memory_and_then_that_of_the_state() -> None:
    t = trainer(staged(["consistency", "adm"]))
    t.advance(32)
    state, fresh = copy.deepcopy(t.state_dict()), trainer(t.spec, blank=True)
    assert all(p.is_meta for p in fresh.nets.generator.parameters()) and fresh.ema.network.first.weight.is_meta
    fresh.load_state_dict(state)
    for name, network in (("generator", fresh.nets.generator), ("ema", fresh.ema), ("fake", fresh.nets.fake)):
        ours, theirs = network.state_dict(), state.tensors[name]
        assert [ours[key].data_ptr() for key in theirs] == [value.data_ptr() for value in theirs.values()]
    fresh.load_state_dict(copy.deepcopy(trainer(t.spec).state_dict()))  # another state is copied into it
    assert_same(fresh, trainer(t.spec))


def test_the_global_random_state_does_not_matter() -> None:
    torch.manual_seed(1)
    one = trained()
    torch.manual_seed(2)
    two = trainer()
    while not two.done:
        torch.randn(17)
        two.advance(8)
    assert_same(one, two)


def test_students_and_seeds_differ() -> None:
    one = trained()
    assert differ(one, trained(replace(SPEC, index=1)))
    assert differ(one, trained(replace(SPEC, seed=6)))


def test_students_that_start_from_the_same_weights_draw_different_noise() -> None:
    initial = SPEC.denoiser.build().state_dict()
    one, two = (trainer(replace(SPEC, index=k), initial=initial) for k in (0, 1))
    assert_same(one, two)
    for name, value in initial.items():
        for part in ("generator", "ema", "fake"):
            assert torch.equal(parts(one)[part][name], value)
    one.advance(8)
    two.advance(8)
    assert differ(one, two)


# One step: who is asked what, and when.


def test_the_teacher_is_asked_before_the_fake_score_trains_and_read_after(spy: Spy) -> None:
    trainer(replace(SPEC, stages={"dm": replace(DM, warmup=0, fake_steps=3)}), spy).advance(16)
    update = ["asked", *["step 0.002000"] * 3, "read", "step 0.001000"]
    assert spy.events == update * 2


@pytest.mark.parametrize("shards", [1, 2])
def test_a_follow_up_is_put_to_the_teacher_when_the_first_answer_is_read(spy: Spy, shards: int) -> None:
    """Of several shards all are asked before the second answer of any is waited for."""
    spec = staged(["consistency"], warmup=0, optimizer="adamw")
    trainer(replace(spec, shards=shards), spy, initial=original().state_dict()).advance(8)
    assert spy.events == [*["asked"] * shards, *["read", "asked"] * shards, *["read"] * shards, "step 0.001000"]


def test_the_target_is_an_average_over_updates_that_begins_as_the_generator() -> None:
    t, name = trainer(staged(["dm", "consistency", "dm"])), "network.first.weight"
    t.advance(24)
    assert "target" not in parts(t)
    expected = parts(t)["generator"][name].clone()
    for _ in range(3):
        t.advance(8)
        expected = 0.95 * expected + 0.05 * parts(t)["generator"][name]
        assert torch.allclose(parts(t)["target"][name], expected, atol=1e-6)
        assert torch.equal(parts(resumed(t))["target"][name], parts(t)["target"][name])
    assert not torch.allclose(parts(t)["target"][name], parts(t)["ema"][name])
    t.advance(8)
    assert "target" not in parts(t)


def test_learning_rates_rise_over_the_warmup_of_each_stage(spy: Spy) -> None:
    stages = {"dm": replace(DM, warmup=32, fake_steps=1), "adm": replace(ADM, warmup=16, fake_steps=1)}
    trainer(replace(SPEC, stages=stages), spy).advance(SPEC.images)
    rates = [float(event.split()[1]) for event in spy.events if event.startswith("step")]
    assert rates[1::2] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 2.5e-4, 5e-4, 5e-4], abs=1e-6)
    assert rates[0::2] == pytest.approx([5e-4, 1e-3, 1.5e-3, 2e-3, 2e-3, 1e-3, 2e-3, 2e-3], abs=1e-6)


def test_the_fake_score_rests_where_it_has_no_steps() -> None:
    t = trainer(replace(SPEC, stages={"dm": replace(DM, fake_steps=0)}))
    before = copy.deepcopy(parts(t))
    t.advance(16)
    assert all(torch.equal(before["fake"][name], value) for name, value in parts(t)["fake"].items())
    assert any(not torch.equal(before["generator"][name], value) for name, value in parts(t)["generator"].items())
    assert_same(resumed(t), t)


def test_the_generators_update_leaves_fake_score_and_head_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    t = trainer(replace(SPEC, stages={"adm": replace(ADM, fake_steps=0)}))
    with last_gradients() as gradients:
        t.advance(8)
    assert t.nets.head is not None
    assert not gradients(t.nets.fake) and not gradients(t.nets.head) and gradients(t.nets.generator)
    assert all(p.requires_grad for p in [*t.nets.fake.parameters(), *t.nets.head.parameters()])
    assert all(p.grad is None and not p.requires_grad for p in t.ema.parameters())


def test_the_gradients_of_two_optimizers_are_never_held_together(monkeypatch: pytest.MonkeyPatch) -> None:
    t, strange = trainer(staged(["adm"])), []

    def note(optimizer: Adam) -> None:
        own = {id(p) for p in optimizer.parameters}
        strange.append(sum(p.grad is not None and id(p) not in own for net in networks() for p in net.parameters()))

    def networks() -> list[nn.Module]:
        assert t.nets.head is not None
        return [t.nets.generator, t.nets.fake, t.nets.head]

    monkeypatch.setattr(Adam, "before_step", [note])
    t.advance(16)
    assert strange == [0] * 6  # two steps of the fake score and one of the generator, twice
    assert all(p.grad is None for net in networks() for p in net.parameters())


@pytest.mark.parametrize("afresh", ["auto", ("fake_score",)])
def test_the_weights_that_the_fake_score_began_with_are_kept_only_where_it_begins_again(afresh: Any) -> None:
    kept = original().state_dict()
    first = weakref.ref(kept["network.first.weight"])
    spec = staged(["dm", "dm"])
    stages = {"0-dm": spec.stages["0-dm"], "1-dm": replace(spec.stages["1-dm"], afresh=afresh)}
    t = trainer(replace(spec, stages=stages), extras=Extras(fake=kept))
    del kept
    gc.collect()
    assert (first() is None) == (afresh == "auto")
    t.advance(8)


def test_only_its_own_conditions_and_real_samples_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    t = trainer(replace(SPEC, stages={"adm": replace(ADM, images=400)}), spy)
    batches = []
    original = type(t.spec.objective("adm")).fake_loss

    def noted(self: Any, nets: Any, x: Any, batch: Any, rng: Any) -> Any:
        batches.append(batch)
        return original(self, nets, x, batch, rng)

    monkeypatch.setattr(type(t.spec.objective("adm")), "fake_loss", noted)
    t.advance(400)
    assert torch.cat(spy.conditions).unique().tolist() == list(CONDITIONS)
    assert len(spy.conditions) == 50
    assert len(batches) == 100
    assert torch.cat([b.condition for b in batches]).unique().tolist() == list(CONDITIONS)
    pairs = {(*x.tolist(), int(c)) for b in batches for x, c in zip(b.real, b.real_condition, strict=True)}
    assert pairs == {(*x.tolist(), int(c)) for x, c in zip(REAL.all().x, REAL.classes, strict=True)}
    z = torch.cat([b.z for b in batches])
    assert len(z.unique(dim=0)) == len(z)  # no noise is drawn twice
    assert z.std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("noise", [Noise(), FEW_STEPS], ids=["one step", "three steps"])
@pytest.mark.parametrize("shards", [1, 2])
def test_one_pass_makes_the_samples_of_all_steps_of_the_fake_score(
    shards: int, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = trainer(replace(SPEC, shards=shards, stages={"dm": replace(DM, fake_steps=3)}, noise=noise))
    steps, original = [], OBJECTIVES["dm"].fake_loss

    def noted(self: Any, nets: Any, x: Any, batch: Any, rng: Any) -> Any:
        expected = generated(nets.generator, batch, self.noise)
        steps.append((x, expected.detach()))
        return original(self, nets, x, batch, rng)

    monkeypatch.setattr(OBJECTIVES["dm"], "fake_loss", noted)
    t.advance(2 * BATCH)
    assert len(steps) == 2 * 3 * shards
    for x, expected in steps:
        assert not x.requires_grad
        assert torch.allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped() -> None:
    """Adam's first step does not show the size of a gradient, its first moment does: (1 - 0.9) g."""
    t = trainer(replace(SPEC, stages={"dm": replace(DM, clip=1e-3)}))
    t.advance(8)
    moments = [value for name, value in parts(t)["generator_optimizer"].items() if name.endswith("exp_avg")]
    assert torch.cat([m.flatten() for m in moments]).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def settings_of(t: StudentTrainer) -> list[tuple[Any, ...]]:
    descents = [t._networks.generator_descent, *([t._networks.fake_descent] if t._networks.fake_descent else [])]
    return [(d.optimizer.kind, d.optimizer.betas, d.optimizer.weight_decay) for d in descents]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dm", ("adamw", (0.9, 0.999), 0.01)),
        ("sid", ("adam", (0.0, 0.999), 0.0)),
        ("gdd", ("adam", (0.0, 0.99), 0.0)),
        ("consistency", ("radam", (0.9, 0.999), 0.0)),
    ],
)
def test_the_optimizer_is_the_methods_own_unless_the_stage_has_another(name: str, expected: Any) -> None:
    t = trainer(staged([name]))
    t.advance(8)
    assert set(settings_of(t)) == {expected}
    t = trainer(staged([name], optimizer="radam", betas=(0.5, 0.6), weight_decay=0.25))
    t.advance(8)
    assert set(settings_of(t)) == {("radam", (0.5, 0.6), 0.25)}


def gradients_of_an_update(t: StudentTrainer) -> dict[str, Tensor]:
    """As the optimizers saw them last."""
    with last_gradients() as gradients:
        t.advance(8)
    networks = {"generator": t.nets.generator, "fake": t.nets.fake}
    return {name: torch.cat([g.flatten() for g in gradients(network)]) for name, network in networks.items()}


def test_nothing_is_clipped_where_the_limits_are_0() -> None:
    clips = (0.0, 1e9, 1e-3)
    found = {clip: gradients_of_an_update(trainer(staged(["dm"], clip=clip)))["fake"] for clip in clips}
    assert found[1e-3].norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert found[0.0].norm() > 0.01
    assert torch.equal(found[0.0], found[1e9])


def test_values_are_clipped_in_the_fake_scores_gradient_only() -> None:
    limited, free = (trainer(staged(["dm"], clip=0.0, fake_steps=1, fake_clip_value=v)) for v in (1e-3, 0.0))
    ours, whole = gradients_of_an_update(limited), gradients_of_an_update(free)
    assert torch.equal(ours["fake"], whole["fake"].clamp(-1e-3, 1e-3))
    assert ours["generator"].abs().max() > 1e-3


# Gradients that are not finite.


@dataclass
class Shaky(Spy):
    """A teacher that answers with nan in some of its calls."""

    bad: tuple[int, ...] = tuple(range(100))

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        answer = super().submit(x_t, sigma, condition)
        nan = len(self.conditions) - 1 in self.bad
        return SpyAnswer(self, torch.full_like(x_t, torch.nan)) if nan else answer


PATIENT = replace(SPEC, training=replace(SPEC.training, max_skipped=2))


def skips(t: StudentTrainer) -> list[int]:
    rows = [m for m in t.metrics if m.name == "skipped"]
    assert all(m.value == 1 for m in rows)
    return [m.nimg for m in rows]


def test_an_update_whose_gradient_is_not_finite_is_left_out_and_counted() -> None:
    t = trainer(PATIENT, Shaky())
    before = copy.deepcopy(parts(t))
    t.advance(16)
    assert (t.nimg, skips(t)) == (16, [0, 8])
    for part in ("generator", "ema"):
        assert all(torch.equal(before[part][name], value) for name, value in parts(t)[part].items())
    assert not parts(t)["generator_optimizer"]
    assert any(not torch.equal(before["fake"][name], value) for name, value in parts(t)["fake"].items())
    assert "dm" not in {m.name for m in t.metrics}  # no loss of an update that was left out


def test_too_many_in_a_row_end_training_and_the_error_names_place_and_remedy() -> None:
    t = trainer(PATIENT, Shaky())
    with pytest.raises(TrainingError, match=r"student 0: .* 3 times in a row, at 16 images in stage dm; lower"):
        t.advance(1000)
    assert skips(t) == [0, 8, 16]
    assert all(torch.isfinite(value).all() for values in parts(t).values() for value in values.values())


def test_the_default_allows_ten() -> None:
    t = trainer(replace(SPEC, stages={"dm": replace(DM, images=400)}), Shaky())
    with pytest.raises(TrainingError, match="11 times in a row"):
        t.advance(400)


def test_one_good_update_begins_the_count_anew() -> None:
    t = trainer(PATIENT, Shaky(bad=(0, 1, 3, 4, 6, 7)))
    t.advance(SPEC.images)
    assert t.done
    assert skips(t) == [0, 8, 24, 32, 48, 56]


def test_the_count_survives_a_resume() -> None:
    t = trainer(PATIENT, Shaky())
    t.advance(16)
    state = copy.deepcopy(t.state_dict())
    fresh = trainer(PATIENT, Shaky())
    fresh.load_state_dict(state)
    with pytest.raises(TrainingError, match="3 times in a row, at 16 images"):
        fresh.advance(8)
    forgiven = trainer(PATIENT, Spy())
    forgiven.load_state_dict(state)
    forgiven.advance(8)
    assert forgiven.state_dict().meta["skipped"] == 0


def test_a_fake_score_whose_gradient_is_not_finite_stays_as_it_is() -> None:
    """All steps of one update count once."""
    bad = in_memory(torch.full_like(REAL.all().x, torch.nan), REAL.classes)
    t = trainer(replace(PATIENT, stages={"adm": replace(ADM, fake_steps=3)}), real=bad)
    before = copy.deepcopy(parts(t))
    t.advance(16)
    assert skips(t) == [0, 8]
    assert all(torch.equal(before["fake"][name], value) for name, value in parts(t)["fake"].items())
    with pytest.raises(TrainingError):
        t.advance(8)


def test_a_device_that_is_not_waited_for_leaves_out_and_logs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: Adam reads on the device whether to move, and the trainer reads later what was left out."""
    found = []
    for waits in (("cpu",), ()):
        monkeypatch.setattr(optimizer, "WAITS", waits)
        t = trainer(replace(PATIENT, training=replace(PATIENT.training, log_every=16)), Shaky(bad=(0, 1, 3, 6)))
        t.advance(SPEC.images)
        curves = [m for m in t.metrics if not m.name.endswith("seconds")]
        found.append((skips(t), curves, parts(t)))
    (skipped, curves, state), (skipped_later, curves_later, state_later) = found
    assert skipped == skipped_later == [0, 8, 24, 48]
    assert curves == curves_later
    assert state.keys() == state_later.keys()
    for part, tensors in state.items():
        assert all(torch.equal(value, state_later[part][name]) for name, value in tensors.items()), part


def test_too_many_in_a_row_end_training_where_it_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimizer, "WAITS", ())
    t = trainer(PATIENT, Shaky())
    with pytest.raises(TrainingError, match=r"student 0: .* 3 times in a row, at 16 images in stage dm; lower"):
        t.advance(1000)
    assert skips(t) == [0, 8, 16]


# Stages in which only the fake score trains at first.


@pytest.mark.parametrize("name", ["dm", "adm", "sida", "f-distill", "gdd"])
def test_at_first_only_fake_score_and_discriminator_train(name: str) -> None:
    spy = Spy()
    t = trainer(staged([name], images=40, fake_first=16), spy)
    before = copy.deepcopy(parts(t))
    t.advance(16)
    assert (t.nimg, spy.events) == (16, [])
    for part in ("generator", "ema"):
        assert all(torch.equal(before[part][key], value) for key, value in parts(t)[part].items())
    assert not parts(t)["generator_optimizer"]
    assert t._networks.fake_descent
    first = t._networks.fake_descent.parameters[0].detach().clone()
    assert parts(t)["fake_optimizer"]
    t.advance(8)
    assert spy.events == ([] if name == "gdd" else ["asked", "read"])
    assert any(not torch.equal(before["generator"][key], value) for key, value in parts(t)["generator"].items())
    assert not torch.equal(first, t._networks.fake_descent.parameters[0])


def test_a_cut_while_only_the_fake_score_trains_changes_nothing() -> None:
    spec = staged(["sid", "sida"], fake_first=16)
    t = trainer(spec)
    while not t.done:
        t.advance(8)
        t = resumed(t)
    assert_same(t, trained(spec))


# GDD-I.

DIGITS = DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(2,), dropout=0.0), (1, 4, 4), 4)
IMAGES = in_memory(torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(4)), REAL.classes)


@pytest.mark.parametrize("denoiser", [SPEC.denoiser, DIGITS], ids=["mlp", "unet"])
def test_gdd_i_leaves_frozen_weights_bit_for_bit_as_the_teacher_has_them(denoiser: DenoiserSpec) -> None:
    stage = replace(DM, objective="gdd", options={"innate": True, "r1_every": 2}, weight_decay=0.5)
    spec = replace(SPEC, denoiser=replace(denoiser, sigma_min=0.002), stages={"gdd": stage})
    initial, encoder = original(spec).state_dict(), original(spec)
    real = REAL if denoiser is SPEC.denoiser else IMAGES
    t = trainer(spec, initial=initial, real=real, extras=Extras(encoder=encoder))
    t.advance(spec.images)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, initial[name])
    assert all(p.grad is None for p in encoder.parameters())
    for part in ("generator", "ema"):
        kept = {name for name, value in parts(t)[part].items() if torch.equal(initial[name], value)}
        assert kept == {name for name in initial if any(re.search(pattern, name) for pattern in INNATE)}


def test_a_stage_after_gdd_i_trains_everything_again() -> None:
    spec = staged(["gdd", "dm"])
    spec.stages["0-gdd"].options["innate"] = True
    t = trainer(spec, initial=original().state_dict())
    t.advance(24)
    after = copy.deepcopy(parts(t)["generator"])
    t.advance(24)
    assert all(p.requires_grad for p in t.nets.generator.parameters())
    hidden = [name for name in after if ".hidden." in name]
    assert hidden and all(not torch.equal(after[name], parts(t)["generator"][name]) for name in hidden)


# The clock, the stages, the curves.


def test_the_clock_counts_generator_images() -> None:
    t = trainer()
    assert (t.nimg, t.done, SPEC.images) == (0, False, 64)
    for asked, expected in [(1, 8), (8, 16), (17, 40), (1000, 64)]:
        t.advance(asked)
        assert t.nimg == expected
    assert t.done
    before = copy.deepcopy(parts(t))
    t.advance(8)
    assert t.nimg == 64
    assert all(torch.equal(before["ema"][name], value) for name, value in parts(t)["ema"].items())


def test_stage_at() -> None:
    stages = [SPEC.stage_at(nimg) for nimg in (0, 39, 40, 63)]
    assert stages == [("dm", 0), ("dm", 0), ("adm", 40), ("adm", 40)]
    with pytest.raises(ValueError, match="ends at 64"):
        SPEC.stage_at(64)


def test_options_reach_the_objective() -> None:
    stages = {"adm": replace(ADM, options={"generator_weight": 0.5})}
    objective: Any = replace(SPEC, stages=stages, noise=Noise(levels=7)).objective("adm")
    assert (objective.generator_weight, objective.noise.levels) == (0.5, 7)


def test_curves_have_their_stage_images_and_names() -> None:
    t = trainer()
    rows = t.advance(32)
    curve = [(r.stage, r.nimg, r.name) for r in rows if not r.name.endswith("seconds")]
    assert curve == [("dm", 16, "fake_score"), ("dm", 16, "dm"), ("dm", 32, "fake_score"), ("dm", 32, "dm")]
    times = {r.name: r for r in rows if r.name.endswith("seconds")}
    assert set(times) == {"wall_seconds", "cpu_seconds"}
    assert all(r.value > 0 and r.nimg == 32 for r in times.values())
    rows = t.advance(32)
    assert {(r.name) for r in rows if r.nimg == 64} == {
        "fake_score",
        "head",
        "dm",
        "gan",
        "wall_seconds",
        "cpu_seconds",
    }
    assert {r.stage for r in rows if r.nimg == 64} == {"adm"}
    assert resumed(t).metrics == t.metrics  # the curves are part of the state


def test_the_ema_is_that_of_the_generators_weights() -> None:
    t, name = trainer(), "network.first.weight"
    expected = parts(t)["ema"][name].clone()
    for nimg in range(8, 65, 8):
        t.advance(8)
        decay = 0.5 ** (8 / min(20, 0.5 * nimg))
        expected = decay * expected + (1 - decay) * parts(t)["generator"][name]
        assert torch.allclose(parts(t)["ema"][name], expected, atol=1e-6)


@pytest.mark.parametrize(
    "bad", [{"batch": -1}, {"fake_steps": -1}, {"images": 4}, {"images": 41}, {"clip": -1.0}, {"fake_clip_value": -1.0}]
)
def test_bad_stages_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"must be|{next(iter(bad))}"):
        in_range(replace(DM, **bad))  # type: ignore[arg-type]


# It learns.


@pytest.mark.parametrize("noise", [Noise(), Noise(steps=2)], ids=["one step", "two steps"])
def test_a_generator_moves_to_the_distribution_of_its_teacher(noise: Noise) -> None:
    stage = StageConfig("dm", images=60 * 64, batch=64, generator_lr=5e-3, fake_lr=1e-2, fake_steps=4, warmup=0)
    spec = replace(
        SPEC,
        denoiser=DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 4),
        stages={"dm": stage},
        training=TrainingConfig(ema=EMAConfig(halflife=300, rampup=0.5)),
        noise=noise,
    )
    teacher, levels = Spy(), noise.step_levels
    t = trainer(spec, teacher)
    z = torch.randn(len(levels), 512, 2, generator=torch.Generator().manual_seed(0))

    def means() -> Tensor:
        with torch.no_grad():
            return torch.stack(
                [few_steps(t.ema, z[0], torch.full((512,), c), z[1:], levels).mean(dim=0) for c in CONDITIONS]
            )

    before = (means() - teacher.mean).norm(dim=1)
    t.advance(spec.images)
    after = (means() - teacher.mean).norm(dim=1)
    assert (after < 0.3 * before).all(), (before, after)
    assert (after < 0.15).all()
