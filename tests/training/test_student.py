import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, optim

from msd_ray.data import Samples
from msd_ray.diffusion import Noise, one_step, per_sample
from msd_ray.errors import TrainingError
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.teachers import Answer
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.ema import EMAConfig
from msd_ray.training.state import Tensors, load_optimizer, tensors_of_optimizer
from msd_ray.training.student import StudentSpec, StudentTrainer

BATCH = 8
DM = StageConfig("dm", images=40, batch=BATCH, generator_lr=1e-3, fake_lr=2e-3, fake_steps=2, warmup=16)
ADM = replace(DM, objective="adm", images=24, generator_lr=5e-4)
CONDITIONS = (1, 3)
SPEC = StudentSpec(
    index=0,
    seed=5,
    conditions=CONDITIONS,
    denoiser=DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 4),
    stages={"dm": DM, "adm": ADM},
    training=TrainingConfig(log_every=16, ema=EMAConfig(halflife=20, rampup=0.5)),
)
REAL = Samples(torch.arange(20.0).reshape(10, 2) / 20, torch.tensor(CONDITIONS * 5))


@dataclass
class Spy:
    """A teacher of data N(mean, 0.3^2 I) that notes what it is asked and in which order; reading waits for `result`."""

    mean: Tensor = field(default_factory=lambda: torch.tensor([0.6, -0.3]))
    std: float = 0.3
    events: list[str] = field(default_factory=list)
    conditions: list[Tensor] = field(default_factory=list)

    def submit(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Answer:
        self.events.append("asked")
        self.conditions.append(condition)
        s2 = per_sample(sigma, x_t) ** 2
        return SpyAnswer(self, (self.std**2 * x_t + s2 * self.mean) / (self.std**2 + s2))


@dataclass
class SpyAnswer:
    spy: Spy
    x0: Tensor

    def result(self) -> Tensor:
        self.spy.events.append("read")
        return self.x0


def trainer(spec: StudentSpec = SPEC, teacher: Any = None, **more: Any) -> StudentTrainer:
    return StudentTrainer(spec, teacher or Spy(), real=REAL, **more)


def trained(spec: StudentSpec = SPEC) -> StudentTrainer:
    t = trainer(spec)
    t.advance(spec.images)
    return t


def parts(t: StudentTrainer) -> dict[str, Tensors]:
    return t.state_dict().parts


def assert_same(a: StudentTrainer, b: StudentTrainer) -> None:
    ours, theirs = parts(a), parts(b)
    assert ours.keys() == theirs.keys()
    for part in ours:
        assert ours[part].keys() == theirs[part].keys()
        for name in ours[part]:
            assert torch.equal(ours[part][name], theirs[part][name]), (part, name)


def differ(a: StudentTrainer, b: StudentTrainer) -> bool:
    return not torch.equal(parts(a)["generator"]["network.first.weight"], parts(b)["generator"]["network.first.weight"])


def resumed(t: StudentTrainer) -> StudentTrainer:
    """A new trainer from the state, in a process whose random state is another one."""
    state = copy.deepcopy(t.state_dict())
    torch.manual_seed(t.nimg + 100)
    fresh = trainer(t.spec)
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
    assert "head" not in state.parts
    t.advance(1)
    assert t.stage == "adm"
    assert "head" in t.state_dict().parts


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


def test_an_earlier_state_can_be_loaded_into_a_later_trainer() -> None:
    t = trainer()
    t.advance(16)
    early = copy.deepcopy(t.state_dict())
    t.advance(40)
    t.load_state_dict(early)
    assert (t.nimg, t.stage) == (16, "dm")
    t.advance(SPEC.images)
    assert_same(t, trained())


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


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """A teacher whose events also hold the optimizers' steps, as "fake <lr>" and "generator <lr>"."""
    spy, step = Spy(), optim.AdamW.step

    def noted(self: optim.AdamW) -> None:
        lr = self.param_groups[0]["lr"]
        before = self.param_groups[0]["params"][0].detach().clone()
        step(self)
        assert not torch.equal(before, self.param_groups[0]["params"][0])
        spy.events.append(f"step {lr:.6f}")

    monkeypatch.setattr(optim.AdamW, "step", noted)
    return spy


def test_the_teacher_is_asked_before_the_fake_score_trains_and_read_after(spy: Spy) -> None:
    trainer(replace(SPEC, stages={"dm": replace(DM, warmup=0, fake_steps=3)}), spy).advance(16)
    update = ["asked", *["step 0.002000"] * 3, "read", "step 0.001000"]
    assert spy.events == update * 2


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
    t.advance(8)
    assert t.nets.head is not None
    assert all(p.grad is None for p in [*t.nets.fake.parameters(), *t.nets.head.parameters()])
    assert all(p.requires_grad for p in [*t.nets.fake.parameters(), *t.nets.head.parameters()])
    assert any(p.grad is not None for p in t.nets.generator.parameters())
    assert all(p.grad is None and not p.requires_grad for p in t.ema.parameters())


def test_only_its_own_conditions_and_real_samples_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    t = trainer(replace(SPEC, stages={"adm": replace(ADM, images=400)}), spy)
    batches = []
    original = type(t.spec.objective("adm")).fake_loss

    def noted(self: Any, nets: Any, batch: Any, rng: Any) -> Any:
        batches.append(batch)
        return original(self, nets, batch, rng)

    monkeypatch.setattr(type(t.spec.objective("adm")), "fake_loss", noted)
    t.advance(400)
    assert torch.cat(spy.conditions).unique().tolist() == list(CONDITIONS)
    assert len(spy.conditions) == 50
    assert len(batches) == 100
    assert torch.cat([b.condition for b in batches]).unique().tolist() == list(CONDITIONS)
    pairs = {(*x.tolist(), int(c)) for b in batches for x, c in zip(b.real, b.real_condition, strict=True)}
    assert pairs == {(*x.tolist(), int(c)) for x, c in zip(REAL.x, REAL.condition, strict=True)}
    z = torch.cat([b.z for b in batches])
    assert len(z.unique(dim=0)) == len(z)  # no noise is drawn twice
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_a_gradient_that_is_not_finite_ends_training_and_names_place_and_remedy() -> None:
    t = trainer(teacher=Spy(mean=torch.tensor([torch.nan, 0.0])))
    with pytest.raises(TrainingError, match=r"student 0: .* at 0 images in stage dm; lower the learning rates"):
        t.advance(8)
    assert all(torch.isfinite(value).all() for value in parts(t)["generator"].values())  # the step was not taken


def test_gradients_are_clipped() -> None:
    """Adam's first step does not show the size of a gradient, its first moment does: (1 - 0.9) g."""
    t = trainer(replace(SPEC, stages={"dm": replace(DM, clip=1e-3)}))
    t.advance(8)
    moments = [value for name, value in parts(t)["generator_optimizer"].items() if name.endswith("exp_avg")]
    assert torch.cat([m.flatten() for m in moments]).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


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


def test_an_optimizer_survives_packing() -> None:
    def step(o: optim.Optimizer, p: Tensor) -> None:
        p.grad = torch.cos(p.detach())
        o.step()

    a = torch.linspace(-1, 1, 5).requires_grad_()
    optimizer = optim.AdamW([a], lr=0.1)
    step(optimizer, a)
    packed = copy.deepcopy(tensors_of_optimizer(optimizer))
    assert set(packed) == {"0.step", "0.exp_avg", "0.exp_avg_sq"}
    b = a.detach().clone().requires_grad_()
    other = optim.AdamW([b], lr=0.1)
    load_optimizer(other, packed)
    for _ in range(3):
        step(optimizer, a)
        step(other, b)
    assert torch.equal(a, b)
    assert other.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("bad", [{"batch": 0}, {"fake_steps": -1}, {"images": 4}, {"images": 41}])
def test_bad_stages_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(DM, **bad)  # type: ignore[arg-type]


# It learns.


def test_a_generator_moves_to_the_distribution_of_its_teacher() -> None:
    stage = StageConfig("dm", images=60 * 64, batch=64, generator_lr=5e-3, fake_lr=1e-2, fake_steps=4, warmup=0)
    spec = replace(
        SPEC,
        denoiser=DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 4),
        stages={"dm": stage},
        training=TrainingConfig(ema=EMAConfig(halflife=300, rampup=0.5)),
    )
    teacher = Spy()
    t = trainer(spec, teacher)
    z = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))

    def means() -> Tensor:
        with torch.no_grad():
            return torch.stack(
                [one_step(t.ema, z, torch.full((512,), c), spec.noise.sigma_init).mean(dim=0) for c in CONDITIONS]
            )

    before = (means() - teacher.mean).norm(dim=1)
    t.advance(spec.images)
    after = (means() - teacher.mean).norm(dim=1)
    assert (after < 0.3 * before).all(), (before, after)
    assert (after < 0.15).all()
