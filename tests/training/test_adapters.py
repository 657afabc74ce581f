"""Students that train adapters on frozen weights: what moves, what a checkpoint holds, and that they resume alike."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from msd_ray.networks import Adapter
from msd_ray.networks.adapters import own_tensors
from msd_ray.objectives import OBJECTIVES
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.state import State
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

from .cases import Tensors, assert_same, original, parts, staged, trainer

ADAPTER = Adapter(rank=1)


def adapted(objectives: list[str], **changes: object) -> StudentSpec:
    return replace(staged(objectives, **changes), adapter=ADAPTER)  # type: ignore[arg-type]


def base() -> Tensors:
    return {name: value.clone() for name, value in original().state_dict().items()}


def made(spec: StudentSpec, **more: object) -> StudentTrainer:
    return trainer(spec, initial=base(), **more)


def base_of(t: StudentTrainer, network: str) -> Tensors:
    module = t.ema if network == "ema" else getattr(t.nets, network)
    plain = {name.replace("parametrizations.weight.original", "weight"): v for name, v in module.state_dict().items()}
    return {name: plain[name] for name in base()}


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_every_objective_moves_adapters_alone(objective: str) -> None:
    t = made(adapted([objective]))
    t.advance(16)
    for network in ("generator", "ema", "fake"):
        assert all(torch.equal(value, base()[name]) for name, value in base_of(t, network).items()), network
    assert any(value.any() for name, value in parts(t)["generator"].items() if ".lora_B." in name)
    assert all(".lora_" in name for network in ("generator", "ema", "fake") for name in parts(t)[network])


@pytest.mark.parametrize("objectives", [["dm", "adm"], ["tsm", "sid"], ["consistency"], ["gdd"]])
@pytest.mark.parametrize("at", [8, 24, 32])
def test_a_resumed_student_ends_with_the_same_bits(objectives: list[str], at: int) -> None:
    spec = adapted(objectives)
    straight, before, after = made(spec), made(spec), made(spec, blank=True)
    straight.advance(spec.images)
    before.advance(at)
    after.load_state_dict(before.state_dict())
    after.advance(spec.images)
    assert_same(straight, after)


def test_a_checkpoint_has_adapters_and_their_optimizers_alone(tmp_path: object) -> None:
    t = made(adapted(["dm"]))
    t.advance(8)
    own, store = t.spec.denoiser.own_parameters(ADAPTER), Store(str(tmp_path))
    state = t.state_dict()
    numbers = {name: sum(v.numel() for v in tensors.values() if v.ndim) for name, tensors in state.tensors.items()}
    assert numbers == {
        "generator": own,
        "ema": own,
        "fake": own,
        "generator_optimizer": 2 * own,
        "fake_optimizer": 2 * own,
    }
    Checkpoints(store, 1).save(state)
    read = Checkpoints(store, 1).latest()
    assert isinstance(read, State) and read.tensors["ema"].keys() == own_tensors(t.ema).keys()


def test_networks_of_a_student_hold_one_base() -> None:
    t = made(adapted(["consistency"], images=8))
    t.advance(8)
    full = trainer(staged(["consistency"], images=8))
    full.advance(8)
    shared = 4 * t.spec.denoiser.parameters()
    assert full.bytes() - t.bytes() > shared  # generator, average, fake score and target have none of their own


def test_branches_begin_after_the_trunk_that_is_their_base() -> None:
    spec = replace(adapted(["tsm", "dm"]), begins=24)
    t = made(spec)
    t.branch_off()
    assert (t.nimg, t.stage) == (24, "")
    t.advance(8)
    assert (t.nimg, t.stage) == (32, "1-dm")


def test_what_begins_afresh_begins_at_the_base() -> None:
    spec = adapted(["dm", "adm"])
    second = replace(spec.stages["1-adm"], afresh=("optimizers", "fake_score", "average"))
    t = made(replace(spec, stages={**spec.stages, "1-adm": second}))
    start = {name: value.clone() for name, value in parts(t)["fake"].items()}
    t.advance(24)
    assert any(not torch.equal(value, start[name]) for name, value in parts(t)["fake"].items())
    t._networks.leave()
    t._networks.enter("1-adm")
    assert all(torch.equal(value, start[name]) for name, value in parts(t)["fake"].items())
    assert all(torch.equal(value, parts(t)["generator"][name]) for name, value in parts(t)["ema"].items())


FAKES: list[tuple[Adapter | None, Any]] = [(ADAPTER, "none"), (ADAPTER, Adapter(rank=2)), (None, Adapter(rank=2))]
"""Adapters of student and fake score."""


@pytest.mark.parametrize(("own", "fakes"), FAKES)
def test_a_fake_score_trains_adapters_of_its_own_or_all_its_weights(own: Adapter | None, fakes: Any) -> None:
    t = made(replace(staged(["dm", "adm"]), adapter=own, fake_adapter=fakes))
    t.advance(16)
    count = t.spec.denoiser.own_parameters
    kept = {name: sum(v.numel() for v in tensors.values() if v.ndim) for name, tensors in parts(t).items()}
    fake = count(None if fakes == "none" else fakes)
    assert (kept["generator"], kept["ema"], kept["fake"]) == (count(own), count(own), fake)
    assert kept["fake_optimizer"] == 2 * fake and kept["generator_optimizer"] == 2 * count(own)
    adapted = {"generator": bool(own), "fake": fakes != "none"}
    for network, expected in adapted.items():
        assert expected == all(torch.equal(value, base()[name]) for name, value in base_of(t, network).items())
    if all(adapted.values()):
        bases = [{p.data_ptr() for p in n.parameters() if not p.requires_grad} for n in (t.nets.generator, t.nets.fake)]
        assert bases[0] & bases[1]


@pytest.mark.parametrize(("own", "fakes"), FAKES)
@pytest.mark.parametrize("at", [8, 24])
def test_a_student_whose_fake_score_has_another_form_resumes_to_the_same_bits(
    own: Adapter | None, fakes: Any, at: int
) -> None:
    spec = replace(staged(["dm", "adm"]), adapter=own, fake_adapter=fakes)
    straight, before, after = made(spec), made(spec), made(spec, blank=True)
    straight.advance(spec.images)
    before.advance(at)
    after.load_state_dict(before.state_dict())
    after.advance(spec.images)
    assert_same(straight, after)


def test_a_whole_fake_score_begins_as_the_student_that_learnt_to_denoise() -> None:
    t = made(replace(adapted(["tsm", "dm"]), fake_adapter="none"))
    t.advance(t.spec.images // 2)
    x, sigma, condition = torch.randn(4, *t.spec.denoiser.sample_shape), torch.ones(4), torch.arange(4) % 3
    assert t.stage == "0-tsm"
    t._networks.leave()
    made_of = [network(x, sigma, condition) for network in (t.nets.fake, t.nets.generator)]
    torch.testing.assert_close(*made_of, rtol=1e-5, atol=1e-6)
    plain = {name: value.clone() for name, value in base().items()}
    assert any(not torch.equal(value, plain[name]) for name, value in t.nets.fake.state_dict().items())
