"""Operations and bytes that are counted without data, against closed forms and against what was really trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from msd_ray.data import in_memory
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.objectives import Pairs
from msd_ray.objectives.dm import DM
from msd_ray.profiling.counts import UncountableError, count_student, count_teacher
from msd_ray.profiling.rates import COUNT_ONLY, Rates, measure_rates
from msd_ray.profiling.tally import Tally, without_data
from msd_ray.runs.disk_needs import disk_needed
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store, used_bytes
from msd_ray.teachers import LocalTeacher
from msd_ray.training import adam, precision
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.config import TrainingConfig
from msd_ray.training.state import State
from msd_ray.training.student_spec import Extras
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.teacher_trainer import TeacherTrainer

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
FLOAT = 4
SHORT = "images: 16, batch: 16, fake_first: 0"


def plan(recipe: str, *overrides: str) -> Plan:
    return RunContext.of(recipe, ["partition.kind=sequential", *overrides], None).plan


def counted(make: Callable[[], nn.Module], *shape: int) -> tuple[float, float]:
    """Floating-point operations forward, and backward to weights and input."""
    tally = Tally()
    with without_data(tally):
        out = make()(torch.zeros(*shape, requires_grad=True))
        forward = tally.flops
        out.sum().backward()
    return forward, tally.flops - forward


def test_an_mlp_takes_two_operations_for_each_weight_and_sample() -> None:
    forward, backward = counted(lambda: nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 7)), 11, 3)
    assert forward == 2 * 11 * (3 * 5 + 5 * 7)
    assert backward == 2 * forward  # the gradients of its inputs, and those of its weights


def test_a_convolution_takes_them_at_each_pixel() -> None:
    forward, backward = counted(lambda: nn.Conv2d(3, 5, kernel_size=3, padding=1), 2, 3, 8, 6)
    assert forward == 2 * 2 * (8 * 6) * (3 * 3) * 3 * 5
    assert backward == 2 * forward


def test_bytes_are_those_that_are_there_and_those_that_were() -> None:
    tally = Tally()
    with without_data(tally):
        a = torch.zeros(100)
        b = a + 1
        assert tally.held == 2 * 100 * FLOAT
        assert tally.moved == (0 + 1) * 100 * FLOAT + 2 * 100 * FLOAT  # zeros; the sum
        view = b[:50]
        del a, b
        assert tally.held == 100 * FLOAT
        with tally.aside():
            elsewhere = view * 2
        assert elsewhere.shape == (50,)
    assert (tally.held, tally.peak) == (100 * FLOAT, 2 * 100 * FLOAT)


FLOW = "stages={a: {objective: flow-trajectory, images: 64, batch: 32}}"


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [("digits-steps", []), ("digits-consistency-dm", []), ("digits-fd", []), ("digits-pd", []), ("digits", [FLOW])],
)
def test_what_sums_steps_rounds_queues_and_own_pairs_take_is_counted_without_data(
    recipe: str, overrides: list[str]
) -> None:
    made = plan(recipe, *overrides)
    found = count_student(made, made.first, COUNT_ONLY)
    assert found.stages.keys() == made.first.stages.keys() and all(s.flops > 0 for s in found.stages.values())
    assert disk_needed(made) > 0


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("digits", ["stages.dm.images=32", "stages.adm.images=32"]),
        ("digits-sida", ["stages.sida.images=32", "stages.sida.fake_first=0", "stages.sida.options.gan_from=0"]),
        ("digits-consistency", []),
        (TINY, [f"stages={{a: {{objective: adm, {SHORT}}}, b: {{objective: dm, {SHORT}}}}}"]),
        (TINY, [f"stages={{a: {{objective: gdd, {SHORT}}}, b: {{objective: adm, {SHORT}}}}}"]),  # two discriminators
    ],
)
def test_a_checkpoint_has_the_bytes_that_were_counted(recipe: str, overrides: list[str], tmp_path: Path) -> None:
    made = plan(recipe, *overrides)
    spec, found = made.largest, count_student(made, made.largest, COUNT_ONLY)
    trainer, states = real_trainer(made), list[State]()
    for _ in spec.stages:
        trainer.advance(1)
        states.append(trainer.state_dict())
    largest = max(states, key=lambda state: state.bytes)
    assert largest.bytes == found.state
    Checkpoints(Store(str(tmp_path)), keep=1).save(largest)
    assert found.state < used_bytes(Store(str(tmp_path))) < 1.05 * found.state + 20_000


def real_trainer(made: Plan) -> StudentTrainer:
    spec, teacher = made.largest, made.teacher.build().eval().requires_grad_(False)
    blank = torch.zeros(1, *spec.denoiser.sample_shape)
    owned = made.ensembles[0].partition.owned_by(spec.index, made.conditions)
    condition = owned.in_turn(1)
    extras = Extras(encoder=teacher, pairs=Pairs(blank, blank, condition))
    return StudentTrainer(spec, owned, LocalTeacher(teacher), None, in_memory(blank, condition), "cpu", extras)


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        (TINY, ["stages={dm: {objective: dm, images: 320, batch: 16, fake_steps: 3}}"]),
        (TINY, ["stages={dm: {objective: dm, images: 320, batch: 16, fake_steps: 1}}", "network.width=256"]),
        (TINY, ["stages={adm: {objective: adm, images: 768, batch: 256, fake_steps: 1}}"]),
        ("digits-consistency", []),
    ],
)
def test_memory_is_that_of_later_updates(recipe: str, overrides: list[str]) -> None:
    """Three updates hold what one foretells; that may be more by a gradient of the fake score."""
    made = plan(recipe, "cluster.teacher=local", *overrides)
    found, tally = count_student(made, made.largest, COUNT_ONLY), Tally()
    with without_data(tally):
        trainer = real_trainer(made)
        trainer.advance(3 * next(iter(made.largest.stages.values())).batch)
    assert 0.999 * tally.peak < found.memory < 1.1 * tally.peak


def test_a_teacher_in_the_student_is_part_of_its_memory() -> None:
    pool, local = (plan(TINY, f"cluster.teacher={where}") for where in ("pool", "local"))
    apart, inside = (count_student(made, made.largest, COUNT_ONLY) for made in (pool, local))
    teacher = FLOAT * pool.teacher.parameters()
    assert real_trainer(local).bytes() + teacher <= inside.memory
    assert inside.memory < apart.memory + teacher  # the generator's graph does not wait while the fake score trains
    assert inside.state == apart.state


def test_workers_with_pieces_hold_a_part_of_weights_gradients_and_averages() -> None:
    """The first worker has two networks whole while it is measured, which is more here than what updates gather."""
    wide = ["training.shards=2", "cluster.workers_per_student=[2, 2]", "network.width=512", "network.blocks=8"]
    stage = "stages={adm: {objective: adm, images: 320, batch: 16, fake_steps: 1}}"
    whole, pieces = (plan(TINY, *wide, stage, f"training.sharding={how}") for how in ("none", "full"))
    all_of_it, part = (count_student(made, made.largest, Rates(1.0)) for made in (whole, pieces))
    student = FLOAT * whole.student.parameters()
    assert all_of_it.memory > 8 * student  # generator, average, fake score, four averages of Adam, a gradient
    assert (7 / 2 + 2) * student < part.memory < (7 / 2 + 2) * student * 1.05
    assert part.state == all_of_it.state
    assert part.stages["adm"].flops == pytest.approx(all_of_it.stages["adm"].flops)


def test_averages_elsewhere_or_in_8_bits_take_less_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adam, "PORTION", 1)  # a weight at a time is fetched, as it is of large networks
    wide = ["network.width=256", "cluster.gpus_per_student=1", "stages={dm: {objective: dm, images: 320, batch: 16}}"]
    plans = {kind: plan(TINY, *wide, f"training.optimizer_state={kind}") for kind in ("fp32", "host", "int8")}
    memory = {kind: count_student(made, made.largest, COUNT_ONLY).memory for kind, made in plans.items()}
    averages = 2 * 2 * FLOAT * plans["fp32"].student.parameters()  # two of generator and fake score each
    assert memory["fp32"] - memory["host"] == pytest.approx(averages, rel=0.3)  # less those that are fetched
    assert memory["fp32"] - memory["int8"] == pytest.approx(0.75 * averages, rel=0.3)


def test_workers_share_operations_and_activations_and_not_the_weights() -> None:
    several = ["training.shards=2", "stages={adm: {objective: adm, images: 768, batch: 256, fake_steps: 1}}"]
    alone, both = (plan(TINY, *several, f"cluster.workers_per_student=[{n}, {n}]") for n in (1, 2))
    one, two = (count_student(made, made.largest, Rates(1.0)) for made in (alone, both))
    assert two.stages["adm"].flops == one.stages["adm"].flops
    assert two.stages["adm"].timing == one.stages["adm"].timing  # of both together
    assert two.state == one.state < two.memory < one.memory


def test_the_teachers_share_is_its_own() -> None:
    """At one operation a second: what an answer takes is the pool's, and all together is what is counted."""
    made = plan(TINY)
    teacher = count_teacher(made, Rates(1.0))
    for stage in count_student(made, made.largest, Rates(1.0)).stages.values():
        assert stage.timing.teacher == pytest.approx(teacher.answer)
        assert stage.timing.own + stage.timing.teacher == pytest.approx(stage.flops)


def test_the_teachers_own_training() -> None:
    made = plan(TINY)
    found, config, shape = count_teacher(made, COUNT_ONLY), made.recipe.teacher, made.teacher.sample_shape
    data = in_memory(torch.zeros(config.batch, *shape), torch.zeros(config.batch, dtype=torch.long))
    trainer = TeacherTrainer(config, made.teacher, made.recipe.noise, data, made.conditions)
    trainer.advance(config.batch)
    assert trainer.state_dict().bytes == found.state
    assert trainer.bytes() <= found.memory


def test_no_weights_are_allocated() -> None:
    """More than this machine has."""
    made = plan(TINY, "network.width=65536", "network.blocks=4")
    found = count_student(made, made.largest, COUNT_ONLY)
    assert found.memory > 8 * FLOAT * made.student.parameters()  # three networks, four averages, a gradient
    assert found.memory > psutil.virtual_memory().total


def test_what_only_data_allow_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def picks(self: Any, nets: Any, x: torch.Tensor, *rest: Any) -> Any:
        return x[x > 0]

    monkeypatch.setattr(DM, "fake_loss", picks)
    made = plan(TINY)
    with pytest.raises(UncountableError, match="stage dm cannot be counted without data: "):
        count_student(made, made.largest, COUNT_ONLY)
    assert torch.zeros(1).sum() == 0  # tensors have data again


def test_rates_are_measured_of_operations_with_data() -> None:
    threads = torch.get_num_threads()
    found = measure_rates(plan(TINY))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    assert 1e6 < found.flops < 1e15
    assert 1e6 < found.moved < 1e14
    assert 1e6 < found.written < 1e12


def test_in_bf16_a_network_on_a_gpu_holds_what_its_kernels_keep() -> None:
    spec, held = DenoiserSpec(UNetConfig(channels=32, attention=(8,), dropout=0.0), (3, 32, 32), 10), dict[bool, int]()
    for gpu in (False, True):
        tally = Tally()
        with without_data(tally, gpu):
            denoiser = precision.apply(spec.build(), TrainingConfig(precision="bf16"))
            weights = tally.held
            x0 = denoiser(torch.zeros(16, 3, 32, 32), torch.ones(16), torch.zeros(16, dtype=torch.long))
            held[gpu] = tally.held - weights  # what the backward pass needs
            x0.square().mean().backward()
        assert x0.shape == (16, 3, 32, 32)
        assert all(p.grad is not None and p.grad.shape == p.shape for p in denoiser.parameters())
    assert 0.3 < held[True] / held[False] < 0.7
