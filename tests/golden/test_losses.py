"""Our losses against what the authors' code makes of the same numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, Noise, per_sample
from msd_ray.objectives import DM, Batch, Consistency, Draft, FDistill, Nets, SiDA, sida
from msd_ray.objectives.dm import matching_loss
from msd_ray.objectives.fdistill import density_weight

from .vectors import Vectors, close

SIZES = ["1x8x8", "3x16x16"]


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


class Answers:
    """A network that answers and judges with what it is given, sample by sample or as a function of x_t."""

    def __init__(self, answer: Any, logits: Any) -> None:
        self.answer, self.logits = answer, logits

    def __call__(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.answer(x_t)

    def bottleneck(self, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return self.logits(x_t)


# DMD2.


@pytest.mark.parametrize("size", SIZES)
def test_dmd2(size: str) -> None:
    v, objective = Vectors("dmd2", f"{size}/"), DM()
    assert torch.allclose(objective.noise.grid()[v["index"]].double(), v["sigma"], rtol=1e-6)
    x = leaf(v["x"])
    loss = matching_loss(x, v["pred_real"], v["pred_fake"])
    loss.backward()
    close(loss, v["loss"])
    assert x.grad is not None
    close(x.grad, v["loss_grad_x"])


@pytest.mark.parametrize("size", SIZES)
def test_dmd2s_fake_score(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v, answer = Vectors("dmd2", f"{size}/"), leaf(Vectors("dmd2", f"{size}/")["pred_fake"])
    monkeypatch.setattr(Noise, "draw", lambda self, n, first, last, rng: v["sigma"])
    nets: Any = Nets(None, Answers(lambda x_t: answer, None))  # type: ignore[arg-type]
    nobody = torch.zeros(len(answer))
    loss = DM().fake_loss(nets, v["x"], Batch(nobody, nobody), torch.Generator()).total
    loss.backward()
    close(loss, v["fake_loss"])
    assert answer.grad is not None
    close(answer.grad, v["fake_loss_grad_pred_fake"])


# f-distill.

NAMES: dict[Any, str] = {
    "reverse-kl": "reverse_kl",
    "forward-kl": "forward_kl",
    "js": "js",
    "hellinger": "squared_hellinger",
    "jeffreys": "jeffreys",
}
THEIR_EPSILON = 1e-5
"""They add 1e-6 to the mean that they divide by; it is at least 0.1 here. We need not: ratios are at least 0.1."""


@pytest.mark.parametrize("divergence", NAMES)
def test_f_distills_weights(divergence: Any) -> None:
    v = Vectors("f-distill")
    close(density_weight(v["logits"], divergence), v[f"h/{NAMES[divergence]}"], THEIR_EPSILON)


def test_f_distills_moving_average() -> None:
    """Their ten bins are even in sigma, ours on the grid that sigma is drawn from: with rho = 1 these are the same."""
    v, objective = Vectors("f-distill"), FDistill(Noise(rho=1.0), memory=0.5)
    memory = torch.ones(10, dtype=torch.float64)
    for logits, bins, h in zip(v["average/logits"], v["average/bins"], v["average/h"], strict=True):
        ratio = logits.clamp(-10, 10).exp().clamp(0.1, 20)
        average = objective._average(memory, ratio, v["sigma"])
        close(memory, bins, 1e-5)
        close(density_weight(logits, "js", average), h, 1e-5)


def test_f_distills_weighted_loss() -> None:
    v = Vectors("f-distill")
    x = leaf(v["vsd_js/x"])
    weight = density_weight(v["logits"], "js")
    loss = matching_loss(x, v["vsd_js/pred_real"], v["vsd_js/pred_fake"], weight)
    loss.backward()
    close(loss, v["vsd_js/loss"], THEIR_EPSILON)
    assert x.grad is not None
    close(x.grad, v["vsd_js/loss_grad_x"], THEIR_EPSILON)


# SiDA.

AFTER = 10**9  # images, so that the GAN has joined


def linear(v: Vectors, which: str) -> Any:
    return lambda x_t: v[f"linear/a_{which}"] * x_t + v[f"linear/b_{which}"]


@pytest.mark.parametrize("size", SIZES)
def test_sidas_generator_loss_with_given_answers(size: str) -> None:
    v = Vectors("sida", f"{size}/")
    x, y_real, y_fake, logits = (leaf(v[f"given/{name}"]) for name in ("x", "y_real", "y_fake", "logits"))
    nets: Any = Nets(None, Answers(lambda x_t: y_fake, lambda x_t: logits))  # type: ignore[arg-type]
    sigma, nobody = v["given/sigma_generator"], torch.zeros(len(x))
    x_t = x + per_sample(sigma, x) * v["given/n"]
    batch = Batch(nobody, nobody, seen=AFTER)
    loss = SiDA().generator_loss(nets, Draft(x, x_t, sigma, nobody), batch, y_real, torch.Generator())
    loss.total.backward()
    close(loss.total, v["fixed/generator/loss"])
    for leaf_, name in [(x, "x"), (y_real, "y_real"), (y_fake, "y_fake"), (logits, "logits")]:
        close(leaf_.grad, v[f"fixed/generator/grad_{name}"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", ["grad_x", "grad_x_sid", "grad_x_gan"])
def test_sidas_generator_gradient_passes_through_both_networks(size: str, part: str) -> None:
    """As a whole, and each of its two terms."""
    v = Vectors("sida", f"{size}/")
    x, sigma, nobody = leaf(v["given/x"]), v["given/sigma_generator"], torch.zeros(len(v["given/x"]))

    def judge(x_t: Tensor) -> Tensor:
        return v["linear/g"] * x_t.mean(dim=1, keepdim=True) + v["linear/m"]

    nets: Any = Nets(None, Answers(linear(v, "fake"), judge))  # type: ignore[arg-type]
    x_t = x + per_sample(sigma, x) * v["given/n"]
    without = {"grad_x": {}, "grad_x_sid": {"gan_weight": 0.0}, "grad_x_gan": {"sid_weight": 0.0}}[part]
    batch, draft = Batch(nobody, nobody, seen=AFTER), Draft(x, x_t, sigma, nobody)
    loss = SiDA(**without).generator_loss(nets, draft, batch, linear(v, "real")(x_t), torch.Generator())
    loss.total.backward()
    assert x.grad is not None
    close(x.grad, v[f"linear/generator/{part}"])
    if part == "grad_x":
        close(loss.total, v["linear/generator/loss"])


@pytest.mark.parametrize("size", SIZES)
def test_until_the_gan_joins_twice_the_sid_term_is_all(size: str) -> None:
    v = Vectors("sida", f"{size}/")
    x, sigma, nobody = leaf(v["given/x"]), v["given/sigma_generator"], torch.zeros(len(v["given/x"]))
    nets: Any = Nets(None, Answers(linear(v, "fake"), lambda x_t: x_t))  # type: ignore[arg-type]
    x_t = x + per_sample(sigma, x) * v["given/n"]
    batch, draft = Batch(nobody, nobody, seen=199_999), Draft(x, x_t, sigma, nobody)
    SiDA().generator_loss(nets, draft, batch, linear(v, "real")(x_t), torch.Generator()).total.backward()
    assert x.grad is not None
    close(x.grad, 2 * v["linear/generator/grad_x_sid"])


def given_noise(v: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake score draws its levels and its noise once: the same for generated and real images."""
    monkeypatch.setattr(sida, "lognormal_sigma", lambda *args: v["given/sigma_fake"])
    monkeypatch.setattr(sida, "add_noise", lambda x, sigma, rng: x + per_sample(sigma, x) * v["given/n"])


@pytest.mark.parametrize("size", SIZES)
def test_sidas_fake_loss_with_given_answers(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = Vectors("sida", f"{size}/")
    given_noise(v, monkeypatch)
    answer, on_fake, on_real = (leaf(v[f"given/{name}"]) for name in ("y_fake", "logits", "logits_real"))
    real_t = v["given/real"] + per_sample(v["given/sigma_fake"], v["given/real"]) * v["given/n"]
    judge = lambda x_t: on_real if torch.allclose(x_t, real_t) else on_fake  # noqa: E731
    nets: Any = Nets(None, Answers(lambda x_t: answer, judge))  # type: ignore[arg-type]
    nobody = torch.zeros(len(answer))
    batch = Batch(nobody, nobody, v["given/real"], nobody)
    total = SiDA().fake_loss(nets, v["given/x"], batch, torch.Generator()).total
    total.backward()
    close(total, v["fixed/fake/score_loss"] + v["fixed/fake/discriminator_loss"])
    for leaf_, name in [(answer, "y_fake"), (on_fake, "logits_fake"), (on_real, "logits_real")]:
        close(leaf_.grad, v[f"fixed/fake/grad_{name}"])


@pytest.mark.parametrize("size", SIZES)
def test_sidas_fake_gradient_in_a_network_of_its_own(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = Vectors("sida", f"{size}/")
    given_noise(v, monkeypatch)
    a, b, g, m = (leaf(v[f"linear/{name}"]) for name in ("a_fake", "b_fake", "g", "m"))
    judge = lambda x_t: g * x_t.mean(dim=1, keepdim=True) + m  # noqa: E731
    nets: Any = Nets(None, Answers(lambda x_t: a * x_t + b, judge))  # type: ignore[arg-type]
    nobody = torch.zeros(len(v["given/x"]))
    batch = Batch(nobody, nobody, v["given/real"], nobody)
    total = SiDA().fake_loss(nets, v["given/x"], batch, torch.Generator()).total
    total.backward()
    close(total, v["linear/fake/score_loss"] + v["linear/fake/discriminator_loss"])
    for leaf_, name in [(a, "a_fake"), (b, "b_fake"), (g, "g"), (m, "m")]:
        close(leaf_.grad, v[f"linear/fake/grad_{name}"])


# Consistency distillation.


class Raw(nn.Module):
    """The network g x + h."""

    def __init__(self, g: Tensor, h: Tensor) -> None:
        super().__init__()
        self.g, self.h = nn.Parameter(g), nn.Parameter(h)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        return self.g * x + self.h


@pytest.mark.parametrize("levels", [18, 40])
def test_consistency_distillation(levels: int) -> None:
    """Our grid is kept in float32, so that is how far the levels agree."""
    v, objective = Vectors("consistency", f"scales-{levels}/"), Consistency(levels=levels, distance="l2")
    student, target = (
        EDMDenoiser(Raw(v[f"{name}_g"], v[f"{name}_h"]), sigma_min=0.002)  # type: ignore[arg-type]
        for name in ("student", "target")
    )
    grid = objective.noise.grid(levels).double()
    sigma = grid[levels - 1 - v["index"]]  # theirs begins at the highest level
    assert torch.allclose(sigma, v["t"], rtol=1e-6)

    def teacher(draft: Draft) -> Tensor:
        s2, t2 = v["s"] ** 2, per_sample(draft.sigma, draft.x_t) ** 2
        return (s2 * draft.x_t + t2 * v["mu"]) / (s2 + t2)

    nobody = torch.zeros(len(sigma))
    first = Draft(v["x0"], v["x0"] + per_sample(sigma, v["x0"]) * v["noise"], sigma, nobody)
    assert objective.needs.follow_up
    second = objective.needs.follow_up(first, teacher(first))
    close(second.x_t, v["x_euler"], 1e-6)
    assert torch.allclose(second.sigma, v["t2"], rtol=1e-6)
    nets = Nets(student, student, target=target)
    loss = objective.generator_loss(nets, second, Batch(nobody, nobody), teacher(second), torch.Generator()).total
    loss.backward()
    close(loss, v["loss_per_image"].mean(), 1e-6)
    raw: Any = student.network
    close(raw.g.grad, v["grad_student_g"], 1e-6)
    close(raw.h.grad, v["grad_student_h"], 1e-6)
    assert all(p.grad is None for p in target.parameters())
