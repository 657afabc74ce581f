import copy
import math
from dataclasses import replace

import pytest
import torch

from msd_ray.conditions import Classes
from msd_ray.data import DataConfig, Samples, in_memory, load_data
from msd_ray.diffusion import Masked, Noise, heun
from msd_ray.diffusion.tokens import one_hot
from msd_ray.errors import TrainingError
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.training.adam import Adam
from msd_ray.training.ema import EMAConfig
from msd_ray.training.teacher_trainer import TeacherConfig, TeacherTrainer
from msd_ray.validation import in_range

SPEC = DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 4)
DATA = load_data(DataConfig("toy2d", options={"classes": 4, "samples": 512})).train
NETWORK = UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0)
TOKENS = DenoiserSpec(NETWORK, (4, 4, 4), 4, preconditioning=Masked())
STRIPES = in_memory(one_hot(torch.arange(4)[:, None, None].expand(4, 4, 4), 4).float(), torch.arange(4))
"""Each class has one value of four, everywhere."""
CONFIG = TeacherConfig(images=640, batch=64, lr=5e-3, warmup=128, ema=EMAConfig(halflife=200, rampup=0.5))


def trainer(config: TeacherConfig = CONFIG, spec: DenoiserSpec = SPEC, data: Samples = DATA) -> TeacherTrainer:
    return TeacherTrainer(config, spec, Noise(), data, Classes.numbered(4))


def weights(t: TeacherTrainer) -> list[torch.Tensor]:
    return [*t.denoiser.state_dict().values(), *t.ema.state_dict().values()]


def same(a: TeacherTrainer, b: TeacherTrainer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        (SPEC, DATA),
        (
            DenoiserSpec(UNetConfig(channels=4, multipliers=(1,), blocks=1, attention=(), dropout=0.3), (1, 4, 4), 4),
            in_memory(torch.rand(32, 1, 4, 4) * 2 - 1, torch.arange(32) % 4),
        ),
        (TOKENS, STRIPES),
    ],
    ids=["mlp", "unet with dropout", "tokens"],
)
def test_training_is_the_same_however_it_is_cut(spec: DenoiserSpec, data: Samples) -> None:
    whole = trainer(spec=spec, data=data)
    whole.advance(CONFIG.images)
    parts = trainer(spec=spec, data=data)
    for images in (64, 1, 256, 10_000):
        parts.advance(images)
        state = copy.deepcopy(parts.state_dict())
        torch.manual_seed(images)
        torch.randn(images)
        parts = trainer(spec=spec, data=data)
        parts.load_state_dict(state)
    assert parts.done
    assert parts.nimg == whole.nimg == 640
    assert same(parts, whole)


def test_a_teacher_of_tokens_learns_what_masks_hide() -> None:
    t = trainer(replace(CONFIG, images=64 * 60, lr=2e-2), TOKENS, STRIPES)
    first, last = t.advance(64)[0], t.advance(10**9)[0]
    assert first.name == last.name == "cross_entropy" and first.value > 1.3 and last.value < 0.3
    said = t.ema(torch.zeros(4, 4, 4, 4), torch.ones(4), torch.arange(4)).softmax(1)
    assert (said * STRIPES.all().x).sum(1).min() > 0.9


def test_the_seed_decides() -> None:
    one, two, other = trainer(), trainer(), trainer(replace(CONFIG, seed=1))
    for t in (one, two, other):
        t.advance(128)
    assert same(one, two)
    assert not same(one, other)


def test_advance_counts_images_and_stops_at_the_end() -> None:
    t = trainer()
    t.advance(65)
    assert t.nimg == 128
    (row,) = t.advance(10**9)
    assert (row.stage, row.name, row.nimg) == ("teacher", "edm", 640)
    assert t.done
    assert t.advance(64) == []
    assert t.nimg == 640


def test_images_need_not_be_a_multiple_of_the_batch() -> None:
    t = trainer(replace(CONFIG, images=100))
    t.advance(100)
    assert (t.nimg, t.done) == (128, True)
    assert torch.isfinite(torch.cat([w.flatten() for w in weights(t)])).all()


def test_the_loss_falls_and_the_samples_find_their_classes() -> None:
    config = TeacherConfig(images=32_000, batch=128, lr=5e-3, warmup=1000, ema=EMAConfig(halflife=2000))
    t = trainer(config)
    first, last = t.advance(2560)[0].value, None
    while not t.done:
        last = t.advance(2560)[0].value
    assert last is not None
    assert last < 0.7 * first
    condition = torch.arange(200) % 4
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    x = heun(t.ema, z, condition, Noise(), 18)
    angle = 2 * math.pi * condition / 4
    assert (x - 0.5 * torch.stack([angle.cos(), angle.sin()], dim=1)).norm(dim=1).mean() < 0.2


@pytest.mark.parametrize("dropped", [0.25, 0.9])
def test_a_share_of_the_classes_is_left_out_at_random(dropped: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, network = [], trainer().denoiser.network
    original = type(network).forward

    def spy(self: torch.nn.Module, x: torch.Tensor, c_noise: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        seen.append(condition)
        return original(self, x, c_noise, condition)

    monkeypatch.setattr(type(network), "forward", spy)
    whole, parted = (trainer(replace(CONFIG, images=6_400, dropped=dropped)) for _ in range(2))
    whole.advance(6_400)
    told = torch.cat(seen)
    assert set(told.sum(dim=1).tolist()) == {0.0, 1.0} and set(told.unique().tolist()) == {0.0, 1.0}
    assert (told.sum(dim=1) == 0).float().mean().item() == pytest.approx(dropped, abs=4 * (0.25 / 6_400) ** 0.5)
    while not parted.done:
        parted.advance(1_000)
    assert same(whole, parted)


def test_the_rate_warms_up_and_falls_as_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = Adam.step

    def spy(self: Adam) -> None:
        rates.append(self.lr)
        step(self)

    monkeypatch.setattr(Adam, "step", spy)
    trainer().advance(640)
    expected = [5e-3 * min(1, (i + 1) / 2) * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]
    assert rates == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("check_every", [1, 2, 64])
def test_a_loss_that_is_not_finite_is_named_however_seldom_losses_are_read(check_every: int) -> None:
    t = trainer()
    t._check_every = check_every
    t.advance(128)
    next(t.denoiser.parameters()).data.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not finite at 128 images; lower"):
        t.advance(256)


@pytest.mark.parametrize("bad", [{"batch": 0}, {"images": 0}, {"steps": 0}, {"threads": 0}])
def test_bad_configs_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        in_range(replace(CONFIG, **bad))  # type: ignore[arg-type]
