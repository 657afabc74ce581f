import pytest
import torch
from torch import Tensor

from msd_ray.training.adam import Adam

from .cases import Spy


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """A teacher whose events also hold the optimizers' steps, as "step <lr>"."""
    spy, step = Spy(), Adam.step

    def noted(self: Adam, finite: Tensor | None = None) -> None:
        before = self.parameters[0].detach().clone()
        step(self, finite)
        assert not torch.equal(before, self.parameters[0])
        spy.events.append(f"step {self.lr:.6f}")

    monkeypatch.setattr(Adam, "step", noted)
    return spy
