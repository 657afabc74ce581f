"""A teacher that is not trained here but comes from a source, such as one of a user's own."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.cluster.planning.outlook import outlook
from msd_ray.cluster.pool.denoising import BatchDenoiser
from msd_ray.cluster.students import RunInputs, StudentTask
from msd_ray.data import load_data
from msd_ray.diffusion import Churn, Noise, heun
from msd_ray.ensemble import Sampling
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.recipes import parse_recipe
from msd_ray.runs.compatibility import teachers_sampling
from msd_ray.runs.costs import teacher_costs
from msd_ray.runs.disk_needs import disk_needed
from msd_ray.runs.init_weights import starting_weights
from msd_ray.runs.pairs import pairs_folder
from msd_ray.runs.plan import Plan
from msd_ray.runs.plan_description import describe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_partition, keep_source, refuse_other_source
from msd_ray.runs.sample_sources import FromTeacher
from msd_ray.runs.teacher_cache import teacher_in, train_here
from msd_ray.storage import Store
from msd_ray.teachers import TeacherSource
from msd_ray.training.state import Tensors

NETWORK = {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.0}
SPEC = DenoiserSpec(UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0), (1, 8, 8), 10)


@dataclass(frozen=True)
class Given:
    """Of the digits. seed: of its weights, which it may keep to itself."""

    seed: int = 0
    shares: bool = True
    spec: DenoiserSpec | None = SPEC
    sample_shape: tuple[int, ...] = (1, 8, 8)
    classes: int = 10

    @property
    def fingerprint(self) -> str:
        return f"given {self.seed}"

    @property
    def parameters(self) -> int:
        return SPEC.parameters()

    def open(self, device: torch.device) -> Any:
        denoiser = SPEC.build()
        denoiser.load_state_dict(self._state())
        return denoiser.eval().requires_grad_(False).to(device)

    def weights(self) -> dict[str, Tensor] | None:
        return self._state() if self.shares else None

    def _state(self) -> dict[str, Tensor]:
        torch.manual_seed(self.seed)
        return {name: 0.1 * torch.randn_like(value) for name, value in SPEC.build().state_dict().items()}


def unnamed() -> Any:
    return SimpleNamespace(**{**vars(Given()), "fingerprint": None, "parameters": 0, "open": print, "weights": print})


def unknown(**options: Any) -> Given:
    """Of which nobody knows how it is built."""
    return Given(spec=None, **options)


def context(folder: Path, source: str = "Given", objective: str = "dm", **options: Any) -> RunContext:
    stages = {"only": {"objective": objective, "images": 320, "batch": 16}}
    teacher = {"source": f"{__name__}:{source}", "options": options, "steps": 4}
    cluster = {"teacher": "local"}
    raw = {"name": "given", "network": NETWORK, "stages": stages, "teacher": teacher, "cluster": cluster}
    return RunContext(parse_recipe(raw), Store(str(folder / "run")))


def test_a_plan_says_where_the_teacher_comes_from_and_trains_none(tmp_path: Path) -> None:
    made = context(tmp_path)
    said = outlook(made, None, tflops=1.0)
    assert describe(made.plan)["teacher"] == f"{SPEC.parameters():,} parameters, from {__name__}:Given"
    assert said.forecast.teacher_seconds == 0 and said.teacher.memory == 0
    assert said.teacher.replica > 4 * SPEC.parameters()
    trained = RunContext.of("digits", ["network.channels=8"], None).plan
    assert disk_needed(made.plan) < disk_needed(trained)


def test_a_plan_counts_all_but_a_teacher_that_nobody_knows(tmp_path: Path) -> None:
    known, blind = (outlook(context(tmp_path, source), None, tflops=1.0) for source in ("Given", "unknown"))
    assert known.student and blind.student
    assert blind.student.stages["only"].flops < known.student.stages["only"].flops
    assert "operations and memory are not counted" in describe(context(tmp_path, "unknown").plan)["teacher"]


@pytest.mark.parametrize(
    ("source", "objective", "options", "message"),
    [
        ("Given", "dm", {"sample_shape": [3, 8, 8]}, r"makes samples of shape \[3, 8, 8\], the data have \[1, 8, 8\]"),
        ("Given", "dm", {"classes": 3}, "knows 3 conditions, the data have 10"),
        ("Given", "dm", {"sede": 3}, "gives no teacher: .*unexpected keyword argument 'sede'"),
        ("unknown", "gdd", {}, "stages.only: gdd looks into the teacher, and .*unknown has no `spec`"),
        ("Path", "dm", {}, "what .*Path gives has no fingerprint"),
        ("unnamed", "dm", {}, "the fingerprint of .*unnamed must be a text, not None"),
        ("Missing", "dm", {}, "teacher.source: .* cannot be imported"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, source: str, objective: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        _ = context(tmp_path, source, objective, **options).plan
    assert "\n" not in str(refused.value)


def test_there_is_no_such_source_of_ours(tmp_path: Path) -> None:
    raw = {**context(tmp_path).recipe.to_json(), "teacher": {"source": "edmm"}}
    with pytest.raises(UserError, match=r"there is no 'edmm', only trained, edm, .*, or module:Class for your own"):
        _ = RunContext(parse_recipe(raw), Store(str(tmp_path))).plan
    with pytest.raises(UserError, match="options are those of a source"):
        parse_recipe({**raw, "teacher": {"options": {"seed": 1}}})


def test_there_is_nothing_to_train(tmp_path: Path) -> None:
    made = context(tmp_path)
    with pytest.raises(UserError, match=f"there is nothing to train: the teacher comes from {__name__}:Given"):
        train_here(made.plan, Store(str(tmp_path)), print)


def start(plan: Plan, teacher: TeacherSource) -> tuple[Tensors | None, Tensors | None]:
    owned = plan.ensembles[0].partition.owned_by(0, plan.conditions)
    return starting_weights(plan.students[0].spec, owned, teacher, "")


def test_students_start_from_its_weights_where_they_fit_and_it_gives_them(tmp_path: Path) -> None:
    plan = context(tmp_path).plan
    (generator, fake) = start(plan, Given(seed=3))
    assert generator and fake and all(torch.equal(generator[name], w) for name, w in Given(seed=3)._state().items())
    assert start(plan, Given(shares=False)) == (None, None)
    assert start(plan, unknown()) == (None, None)
    other = parse_recipe({**plan.recipe.to_json(), "student": {"channel_factor": 0.5}})
    smaller = RunContext(other, Store(str(tmp_path))).plan
    assert start(smaller, Given()) == (None, None)


def test_a_student_learns_from_it_in_its_own_process(tmp_path: Path) -> None:
    """Of a teacher without a spec, whose answers alone count."""
    made = context(tmp_path, "unknown")
    recipe, store = made.recipe, Store(str(tmp_path))
    keep_partition(store, made.plan.ensembles[0])
    task = StudentTask(
        made.plan.students[0].spec,
        store,
        range(1),
        store.child("student"),
        RunInputs(
            recipe.data,
            recipe.conditions,
            recipe.evaluation,
            store.child("cache"),
            teacher_in(store, made.plan),
            None,
            0.0,
        ),
        until=64,
    )
    trainer = task.open().trainer
    before = {name: w.clone() for name, w in trainer.ema.state_dict().items()}
    trainer.advance(64)
    after = trainer.ema.state_dict()
    assert any(not torch.equal(after[name], w) for name, w in before.items())


def test_a_replica_and_the_table_ask_it(tmp_path: Path) -> None:
    from functools import partial

    from msd_ray.runs.teacher_cache import load_teacher

    made = context(tmp_path)
    answering = BatchDenoiser(partial(load_teacher, Given()), gpus=0.0)
    x, sigma, condition = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([1, 2])
    assert torch.equal(answering.denoiser(x, sigma, condition), Given().open(torch.device("cpu"))(x, sigma, condition))
    row = FromTeacher(Given(), Given().fingerprint, made.plan.sampling, 10)
    assert row == FromTeacher(Given(seed=1), "given 0", made.plan.sampling, 10) and hash(row)
    assert teacher_costs(made, made.plan.sampling).parameters == SPEC.parameters()
    assert teacher_costs(made, made.plan.sampling).wall_seconds is None


def test_its_samples_are_those_of_its_own_ode(tmp_path: Path) -> None:
    from msd_ray.ensemble import seeded_noise

    noise, numbers = Noise(), torch.arange(3).numpy()
    row = FromTeacher(Given(), "given 0", Sampling("heun", 4, noise), 10)
    made = row.open(context(tmp_path).recipe.data, torch.device("cpu"))(numbers)
    z = seeded_noise([0, 1, 2], (1, 8, 8))
    assert torch.equal(made.x, heun(Given().open(torch.device("cpu")), z, torch.arange(3), noise, 4))


def test_new_noise_on_the_way_follows_from_the_seed_alone(tmp_path: Path) -> None:
    made = context(tmp_path)
    raw = made.recipe.to_json()
    raw["teacher"]["churn"] = {"amount": 2.0, "sigma_max": 50.0}
    sampling = teachers_sampling(parse_recipe(raw))
    assert sampling.churn == Churn(2.0, sigma_max=50.0)
    assert Sampling.from_json(sampling.to_json()) == sampling
    assert teachers_sampling(made.recipe).to_json().keys() == {"kind", "steps", "noise"}
    sample = FromTeacher(Given(), "given 0", sampling, 10).open(made.recipe.data, torch.device("cpu"))
    plain = FromTeacher(Given(), "given 0", replace(sampling, churn=None), 10).open(
        made.recipe.data, torch.device("cpu")
    )
    together, alone = sample(torch.arange(3).numpy()).x, sample(torch.arange(2, 3).numpy()).x
    assert torch.allclose(together[2:], alone, atol=1e-6)
    assert not torch.allclose(together, plain(torch.arange(3).numpy()).x, atol=0.01)


def test_a_run_goes_on_with_the_same_teacher_only(tmp_path: Path) -> None:
    first, second = (context(tmp_path, seed=seed) for seed in (0, 1))
    assert pairs_folder(first.cache, first.plan).uri != pairs_folder(first.cache, second.plan).uri
    keep_source(first.store, first.plan)
    refuse_other_source(first.store, first.plan)
    with pytest.raises(UserError, match=f"students of another teacher than {__name__}:Given gives now; choose another"):
        refuse_other_source(first.store, second.plan)


def test_the_example_denoises_towards_what_it_knows() -> None:
    import own_parts

    teacher, data = own_parts.Memory(3), load_data(own_data()).train.all()
    denoiser = teacher.open(torch.device("cpu"))
    x, condition = data.x[:5], data.condition[:5]
    near = denoiser(x + 0.01 * torch.randn_like(x), torch.full((5,), 0.01), condition)
    assert torch.allclose(near, x, atol=1e-3)
    far = denoiser(x, torch.full((5,), 1e4), condition)
    means = torch.stack([data.x[data.condition == c].mean(0) for c in condition])
    assert torch.allclose(far, means, atol=1e-3)
    assert teacher.fingerprint != own_parts.Memory(4).fingerprint


def own_data() -> Any:
    from msd_ray.data import DataConfig

    return DataConfig(name="own_parts:folded_digits", options={"classes": 3})
