import pytest
import torch
from torch import optim

from .cases import Spy


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """A teacher whose events also hold the optimizers' steps, as "step <lr>"."""
    spy, step = Spy(), optim.AdamW.step

    def noted(self: optim.AdamW) -> None:
        lr = self.param_groups[0]["lr"]
        before = self.param_groups[0]["params"][0].detach().clone()
        step(self)
        assert not torch.equal(before, self.param_groups[0]["params"][0])
        spy.events.append(f"step {lr:.6f}")

    monkeypatch.setattr(optim.AdamW, "step", noted)
    return spy
