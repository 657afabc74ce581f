"""Which passes are replayed, on any device; and on a GPU that a replay gives the pass's own bits."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_ray.conditions import Classes
from msd_ray.diffusion.denoiser import direct
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.training import replays
from msd_ray.training.config import TrainingConfig
from msd_ray.training.precision import apply
from msd_ray.training.replays import MOST, WARM, Replays


class Recorder:
    """Stands for a GPU whose passes wait for their launches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: float = 0.9) -> None:
        self.recordings: list[tuple[int, ...]] = []
        self.replayed = 0
        monkeypatch.setattr(replays, "recorded", self._record)
        monkeypatch.setattr(replays, "_replayable", lambda *_: True)
        monkeypatch.setattr(replays, "_timed", lambda network, inputs: (network(*inputs), share))

    def _record(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        self.recordings.append(tuple(inputs[0].shape))
        weights = [p.detach() for p in network.parameters()]

        def replay(inputs: tuple[Tensor, ...]) -> Tensor:
            self.replayed += 1
            return inputs[0] @ weights[0].T

        return replay


def test_what_waits_for_its_launches_is_recorded_once_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, network, act = Recorder(monkeypatch), nn.Linear(3, 2, bias=False), Replays()
    for size in (4, 5):
        for _ in range(WARM + 2):
            x = torch.randn(size, 3)
            assert torch.equal(act(network, x), network(x))
    assert recorder.recordings == [(4, 3), (5, 3)]
    assert recorder.replayed == 2 * 2


def test_what_keeps_the_gpu_busy_is_never_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, network, act = Recorder(monkeypatch, share=0.5), nn.Linear(3, 2, bias=False), Replays()
    for _ in range(3 * WARM):
        act(network, torch.randn(4, 3))
    assert recorder.recordings == []


def test_no_more_than_a_few_sizes_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, network, act = Recorder(monkeypatch), nn.Linear(3, 2, bias=False), Replays()
    for size in range(1, MOST + 3):
        for _ in range(WARM):
            act(network, torch.randn(size, 3))
    assert len(recorder.recordings) == MOST


def test_recordings_go_when_the_weights_lie_elsewhere_and_stay_when_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, network, act = Recorder(monkeypatch), nn.Linear(3, 2, bias=False), Replays()
    x = torch.randn(4, 3)
    for _ in range(WARM):
        act(network, x)
    with torch.no_grad():
        network.weight.add_(1)  # as an optimizer does
    assert torch.equal(act(network, x), network(x))
    assert recorder.replayed == 1
    network.weight.data = network.weight.data.clone() + 1  # as loading does
    assert torch.equal(act(network, x), network(x))
    assert recorder.replayed == 1


def test_a_copy_begins_without_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, act, network = Recorder(monkeypatch), Replays(), nn.Linear(3, 2, bias=False)
    for _ in range(WARM):
        act(network, torch.randn(4, 3))
    other, another = copy.deepcopy(act), nn.Linear(3, 2, bias=False)
    x = torch.randn(4, 3)
    assert torch.equal(other(another, x), another(x))
    assert recorder.replayed == 0


def test_nothing_is_replayed_on_a_cpu() -> None:
    network, x = nn.Linear(3, 2), torch.randn(4, 3)
    assert not replays._replayable(network.eval(), (x,))


SPEC = DenoiserSpec(UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (3, 8, 8), 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_replays_the_same_bits(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "LAUNCHING", 0.0)  # this network waits in any case, unless the GPU is shared
    torch.manual_seed(0)
    net = SPEC.build()
    for p in net.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    net = apply(net.cuda().eval(), TrainingConfig(precision=precision, replay=True))
    plain, counted = copy.deepcopy(net), []
    plain.run = direct
    original = replays.recorded
    monkeypatch.setattr(replays, "recorded", lambda *given: counted.append(1) or original(*given))

    def same(n: int) -> None:
        x, sigma = torch.randn(n, 3, 8, 8, device="cuda"), torch.rand(n, device="cuda") + 0.1
        condition = torch.randint(Classes.numbered(4).n, (n,), device="cuda")
        with torch.no_grad():
            assert torch.equal(net(x, sigma, condition), plain(x, sigma, condition))

    for n in (3, 3, 3, 3, 5, 5, 5, 5, 3, 5):
        same(n)
    assert len(counted) == 2
    for one in (net, plain):
        for p in one.parameters():
            p.data.mul_(1.5)  # in place
    same(3)
    for one in (net, plain):
        one.load_state_dict({name: value * 0.5 for name, value in one.state_dict().items()}, assign=True)
    same(3)
    x = torch.randn(3, 3, 8, 8, device="cuda", requires_grad=True)
    net(x, torch.ones(3, device="cuda"), torch.zeros(3, dtype=torch.long, device="cuda")).sum().backward()
    assert x.grad is not None


class Reading(nn.Linear):
    """Reads a number of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(x[0, 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_cannot_be_recorded_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "LAUNCHING", 0.0)
    network, act = Reading(3, 2).cuda().eval(), Replays()
    stream = torch.cuda.current_stream()
    for _ in range(WARM + 2):
        x = torch.randn(4, 3, device="cuda")
        with torch.no_grad():
            assert torch.equal(act(network, x), network(x))
    assert torch.cuda.current_stream() == stream


def test_nothing_is_replayed_unless_a_recipe_says_so() -> None:
    assert apply(SPEC.build(), TrainingConfig()).run is direct
    assert isinstance(apply(SPEC.build(), TrainingConfig(replay=True)).run, Replays)
