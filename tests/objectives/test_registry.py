import sys
from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.objectives import DM, OBJECTIVES, Optimization, objective_class


def test_known_names_are_their_classes() -> None:
    assert {name: objective_class(name) for name in OBJECTIVES} == OBJECTIVES
    assert objective_class("dm") is DM


def test_a_class_of_the_users_own_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from msd_ray.objectives import DM\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Mine(DM):\n"
        "    strength: float = 2.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = objective_class("my_methods:Mine")
    assert mine is sys.modules.pop("my_methods").Mine
    assert mine(strength=3.0).strength == 3.0
    assert not mine().needs.real_data


UNKNOWN = ["dmm", "", "DM", "msd_ray.objectives.dm.DM", ":DM", "no.such:DM", ".relative:DM"]
WITHOUT_CLASS = ["msd_ray.objectives:", "msd_ray.objectives:None", "msd_ray.objectives:DM:DM"]


@pytest.mark.parametrize("name", [*UNKNOWN, *WITHOUT_CLASS])
def test_unknown_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError) as error:
        objective_class(name)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistyped_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"dm, adm, .*, or module:Class"):
        objective_class("dmm")


AUTHORS = {
    "sid": Optimization("adam", (0.0, 0.999), weight_decay=0.0, clip=0.0, fake_steps=1),
    "sida": Optimization(
        "adam", (0.0, 0.999), weight_decay=0.0, clip=0.0, fake_clip_value=1.0, fake_steps=1, fake_first=100_000
    ),
    "uni-instruct": Optimization(
        "adam", (0.0, 0.999), weight_decay=0.0, clip=0.0, fake_clip_value=1.0, fake_steps=1, fake_first=100_000
    ),
    "gdd": Optimization("adam", (0.0, 0.99), weight_decay=0.0, clip=0.0, fake_steps=1),
    "dfosd": Optimization("adamw", (0.9, 0.999), weight_decay=0.01, clip=10.0, fake_steps=1),
    "pd": Optimization("adam", (0.9, 0.999), weight_decay=0.0, clip=1.0),
    "rdd": Optimization("adam", (0.9, 0.999), weight_decay=0.0, clip=1.0),
    "sfddm": Optimization("adam", (0.9, 0.999), weight_decay=0.0, clip=0.0),
    "multi-guidance": Optimization("adam", (0.9, 0.999), weight_decay=0.0, clip=1.0),
    "boot": Optimization("adamw", (0.9, 0.999), weight_decay=0.0, clip=1.0),
    "pid": Optimization("radam", (0.9, 0.999), weight_decay=0.0, clip=0.0),
    "consistency": Optimization("radam", (0.9, 0.999), weight_decay=0.0, clip=0.0),
}
DMD2 = Optimization("adamw", (0.9, 0.999), weight_decay=0.01, clip=10.0, fake_steps=5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_method_has_its_authors_optimizer(name: str) -> None:
    assert OBJECTIVES[name]().needs.optimization == AUTHORS.get(name, DMD2)
