"""What a worker of a shared student tells its slot when something goes wrong; without Ray Train."""

from types import SimpleNamespace
from typing import Any

import pytest

from msd_ray.errors import TrainingError


class Failing:
    """A task that cannot be opened."""

    spec = SimpleNamespace(index=3)
    inputs = SimpleNamespace(gpus=0.0)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def open(self, group: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (TrainingError("the gradient was not finite"), True),
        (ValueError("a library's"), False),
        (TypeError("a driver's"), False),
        (RuntimeError("CUDA error"), False),
    ],
    ids=repr,
)
def test_only_an_error_of_ours_is_final(error: Exception, final: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from msd_ray.cluster.ray_train import workers

    told: list[str] = []
    monkeypatch.setattr(workers.SlotConnection, "give_up", lambda self, error: told.append(str(error)))
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 2)
    monkeypatch.setattr(workers.train, "get_context", lambda: context)
    with pytest.raises(type(error)):
        workers.share({"task": Failing(error), "number": 3, "slot": None})
    assert told == ([str(error)] if final else [])
