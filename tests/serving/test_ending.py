"""How a service ends where its processes take long to."""

from types import SimpleNamespace

import pytest

from msd_ray.serving.serve_apps import deploy
from msd_ray.serving.serve_apps.app_names import GATEWAY, REGISTRY


class SlowServe:
    """Serve whose applications end some seconds after they were deleted. A second passes with each look."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.now, self.deleted, self.ended = seconds, 0.0, dict[str, float](), False

    def delete(self, name: str, _blocking: bool = True) -> None:
        if _blocking and self.seconds[name] > 60:
            raise TimeoutError(f"Some of these applications weren't deleted after 60s: {[name]}")
        self.deleted[name] = self.now

    def status(self) -> SimpleNamespace:
        gone = {name for name, at in self.deleted.items() if self.now - at >= self.seconds[name]}
        return SimpleNamespace(applications={name: object() for name in self.seconds if name not in gone})

    def shutdown(self) -> None:
        self.ended = True

    def sleep(self, seconds: float) -> None:
        self.now += 1.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("drains", "waits"), [(90.0, 90.0), (1e9, 100.0 + deploy.ENDS)])
def test_gateways_have_the_time_that_they_may_drain_in(
    drains: float, waits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowServe({GATEWAY: drains, REGISTRY: 1.0})
    monkeypatch.setattr(deploy, "serve", slow)
    monkeypatch.setattr(deploy, "time", slow)
    deploy.end(drain_seconds=100.0)
    assert slow.now == pytest.approx(waits, abs=1)
    assert next(iter(slow.deleted)) == GATEWAY
    assert slow.ended or REGISTRY in slow.deleted


def test_others_applications_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowServe({GATEWAY: 2.0, "theirs": 1.0, REGISTRY: 70.0})
    monkeypatch.setattr(deploy, "serve", slow)
    monkeypatch.setattr(deploy, "time", slow)
    deploy.end(drain_seconds=5.0)
    assert list(slow.deleted) == [GATEWAY, REGISTRY] and not slow.ended
    assert slow.now == pytest.approx(2 + deploy.ENDS, abs=1)
