"""Recipes whose teacher is a file of EDM: what is refused before anything trains, and training with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from msd_ray.cluster.students import RunInputs, StudentTask
from msd_ray.diffusion import VP, EDMDenoiser
from msd_ray.errors import UserError
from msd_ray.recipes import parse_recipe
from msd_ray.recipes.load import with_overrides
from msd_ray.runs.init_weights import starting_weights
from msd_ray.runs.plan_description import describe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_partition
from msd_ray.runs.teacher_cache import teacher_in
from msd_ray.storage import Store

from .edm_files import snapshot, write

NETWORK = {"kind": "songunet", "channels": 8, "multipliers": [2, 2, 3], "blocks": 1, "attention": [8], "dropout": 0.0}


def two_classes(kind: str) -> dict[str, Any]:
    """The golden DDPM++ of five classes, with two of them."""
    held = snapshot("edm-ddpmpp-cond", kind, label_dim=2)
    model = held["ema"].meta["state"]["_modules"]["model"].meta["state"]["_modules"]
    label = model["map_label"].meta["state"]["_parameters"]
    label["weight"] = nn.Parameter(label["weight"][:, :2].clone(), False)
    return held


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a teacher and data of two classes: bright and dark ones."""
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "teacher.pkl", two_classes("VP"))
    (tmp_path / "data").mkdir()
    labels = np.arange(64) % 2
    np.save(tmp_path / "data" / "labels.npy", labels)
    noise = np.random.default_rng(0).integers(0, 100, (64, 3, 16, 16))
    np.save(tmp_path / "data" / "images.npy", (noise + 100 * labels[:, None, None, None]).astype(np.uint8))
    return tmp_path


def context(folder: Path, *overrides: str) -> RunContext:
    raw: dict[str, Any] = {
        "name": "two",
        "data": {"name": "arrays", "folder": str(folder / "data")},
        "network": dict(NETWORK),
        "teacher": {"from": str(folder / "teacher.pkl"), "steps": 4},
        "partition": {"k": 2},
        "stages": {"only": {"objective": "dm", "images": 32, "batch": 8, "generator_lr": 1e-4}},
        "cluster": {"teacher": "local"},
    }
    return RunContext(parse_recipe(with_overrides(raw, list(overrides))), Store(str(folder / "run")))


def test_the_short_form_is_a_source_and_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    raw = context(folder).recipe.to_json()
    assert (raw["teacher"]["source"], raw["teacher"]["options"]) == ("file", {"path": str(folder / "teacher.pkl")})
    assert parse_recipe(raw) == parse_recipe({**raw, "teacher": {**raw["teacher"], "from": "teacher.pkl"}})
    for wrong, why in (({"from": 1}, "must be the path"), ({"from": "a", "source": "edm"}, "leave out teacher.source")):
        with pytest.raises(UserError, match=why):
            parse_recipe({**raw, "teacher": wrong})


def test_students_start_as_the_teacher_with_its_preconditioning(folder: Path) -> None:
    plan = context(folder).plan
    assert plan.source and plan.source.spec and plan.teacher == plan.source.spec
    assert {student.spec.denoiser for student in plan.students} == {plan.source.spec}
    assert plan.student.preconditioning == VP()
    owned = plan.ensembles[0].partition.owned_by(0, plan.conditions)
    generator, fake = starting_weights(plan.students[0].spec, owned, plan.source, "")
    wanted = plan.source.weights()
    assert generator and fake and wanted
    assert all(torch.equal(generator[name], value) and torch.equal(fake[name], value) for name, value in wanted.items())


def test_a_plan_says_whether_they_start_from_its_weights(folder: Path) -> None:
    alike, other = (describe(context(folder, f"network.attention=[{size}]").plan)["teacher"] for size in (8, 4))
    assert alike == f"143,051 parameters, from {folder / 'teacher.pkl'}"
    assert other == f"{alike}; students have another network, so they start from random weights"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["noise.sigma_max=200"],
            "noise: the teacher knows noise levels from 0.00098 to 152.2; write noise",
        ),
        (["noise.sigma_init=160"], "noise.sigma_init=152.2"),
        (["teacher.from=nowhere.pkl"], "teacher.source: there is no file /"),
        (["teacher.options={depth: 3}"], "unknown key teacher.options.depth"),
        (["data.name=digits"], r"teacher.pkl makes samples of shape \[3, 16, 16\], the data have \[1, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_trains(folder: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        _ = context(folder, *overrides).plan
    assert "\n" not in str(told.value)


def test_another_number_of_classes_is_refused(folder: Path) -> None:
    np.save(folder / "data" / "labels.npy", np.arange(64) % 3)
    with pytest.raises(UserError, match=r"teacher\.pkl knows 2 conditions, the data have 3"):
        _ = context(folder).plan


@pytest.mark.parametrize("objective", ["dm", "sid"])
def test_a_student_trains_with_it(folder: Path, objective: str) -> None:
    """Four updates, killed after two and resumed: the same weights, and others than the teacher's."""
    made = context(folder, f"stages.only.objective={objective}")
    keep_partition(made.store, made.plan.ensembles[0])
    inputs = RunInputs(
        made.recipe.data,
        made.recipe.conditions,
        made.recipe.evaluation,
        made.store.child("cache"),
        teacher_in(made.store, made.plan),
        None,
        0.0,
    )
    spec = made.plan.students[1].spec

    def task(name: str) -> Any:
        return StudentTask(spec, made.store, range(1, 2), made.store.child(name), inputs, until=32).open()

    whole = task("whole").trainer
    start = {name: w.clone() for name, w in whole.nets.generator.state_dict().items()}
    assert isinstance(whole.nets.generator, EDMDenoiser) and whole.nets.generator.preconditioning == VP()
    assert made.plan.source and all(torch.equal(start[n], w) for n, w in (made.plan.source.weights() or {}).items())
    whole.advance(32)
    cut = task("cut")
    cut.advance(16, [], lambda: False)
    resumed = task("cut").trainer
    assert resumed.nimg == 16
    resumed.advance(16)
    ends = [trainer.nets.generator.state_dict() for trainer in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))
    assert any(not torch.equal(start[name], w) for name, w in ends[0].items())
