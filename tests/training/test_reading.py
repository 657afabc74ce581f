"""Samples that are read ahead: the same bits as from memory, errors where they are asked for, nothing left running."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from msd_ray.data import Split
from msd_ray.diffusion import Noise
from msd_ray.training import reading
from msd_ray.training.config import StageConfig
from msd_ray.training.reading import Ahead
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.teacher_trainer import TeacherConfig, TeacherTrainer

from .cases import OWNED, REAL, SPEC, Spy


def test_what_follows_is_made_ahead_and_anything_else_at_once() -> None:
    made: list[int] = []
    ahead = Ahead(lambda asked: made.append(asked) or asked * 10)  # type: ignore[func-returns-value]
    assert [ahead.get("a", n, n + 1) for n in (0, 1, 2)] == [0, 10, 20]
    assert ahead.get("b", 7, 8) == 70
    assert ahead.get("a", 50, 51) == 500  # not what was expected
    ahead.rest()
    assert all(made.count(n) == 1 for n in (0, 1, 2, 7, 50)) and len(made) <= 8


def test_what_the_thread_raises_is_raised_where_it_is_asked_for() -> None:
    def make(asked: int) -> int:
        if asked == 1:
            raise OSError("the disk is away")
        return asked

    ahead = Ahead(make)
    assert ahead.get("a", 0, 1) == 0
    with pytest.raises(OSError, match="the disk is away"):
        ahead.get("a", 1, 2)
    ahead.rest()


def test_no_thread_is_left_of_one_that_rests() -> None:
    ahead = Ahead(lambda asked: asked)
    ahead.get("a", 0, 1)
    ahead.rest()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]
    assert ahead.get("a", 1, 2) == 1
    ahead.rest()


def trained(monkeypatch: pytest.MonkeyPatch, held: int, make: Any, then: Any = None) -> dict[str, torch.Tensor]:
    monkeypatch.setattr(reading, "HELD", held)
    trainer = make()
    trainer.advance(48)
    if then:
        trainer = then(trainer)
    trainer.advance(10**6)
    trainer.rest()
    state = trainer.state_dict().tensors
    return {f"{part}.{name}": t for part in ("ema", "denoiser", "generator") for name, t in state.get(part, {}).items()}


def student() -> StudentTrainer:
    stages = {"adm": StageConfig(objective="adm", images=160, batch=8, fake_steps=2)}
    return StudentTrainer(replace(SPEC, stages=stages), OWNED, Spy(), None, REAL)


def teacher() -> TeacherTrainer:
    return TeacherTrainer(TeacherConfig(images=160, batch=8), SPEC.denoiser, Noise(), REAL, OWNED.conditions)


def resumed(make: Any) -> Any:
    def again(trainer: Any) -> Any:
        trainer.rest()
        other = make()
        other.load_state_dict(trainer.state_dict())
        return other

    return again


@pytest.mark.parametrize("make", [student, teacher])
def test_reading_ahead_keeps_the_bits_also_after_a_resume(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = trained(monkeypatch, 1 << 30, make)
    assert wanted
    for then in (None, resumed(make)):
        found = trained(monkeypatch, 0, make, then)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_split_too_large_for_memory_is_not_counted_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HELD", 0)
    reader = reading.Reader(REAL, torch.device("cpu"))
    assert isinstance(REAL, Split) and not reader.tensors and not reader.is_held and len(reader) == len(REAL)
