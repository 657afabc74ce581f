"""A Stable Diffusion pipeline as a teacher: what it answers, guided and not, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.cluster.pool.batching import Request
from msd_ray.cluster.pool.denoising import BatchDenoiser
from msd_ray.cluster.pool.wire import pack, unpack
from msd_ray.conditions import Conditions, ConditionsConfig, make_conditions
from msd_ray.diffusion import EDMDenoiser, Guided, Stepped, per_sample
from msd_ray.errors import UserError
from msd_ray.networks import DiffusersConditionUNetConfig, StudentSize
from msd_ray.profiling.counts import count_student, count_teacher
from msd_ray.profiling.rates import Rates
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.teachers.inspection import inspect
from msd_ray.teachers.prompted import Prompted, prompted
from msd_ray.teachers.sources import load_source

from ..pipelines import PROMPTS, arguments, write_stable_diffusion
from .diffusers_directories import change

pytest.importorskip("diffusers")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def pipeline(root: Path) -> Any:
    return write_stable_diffusion(root / "sd")


@pytest.fixture(autouse=True)
def _cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(root / "cache"))


def config(folder: Path, embedder: str = "clip-tokens") -> ConditionsConfig:
    return ConditionsConfig("prompts", {"embedder": embedder, "encoder": str(folder)})


def source(folder: Path, guidance: float = 1.0) -> Prompted:
    found = load_source("file", {"path": str(folder), "sigma_data": 1.0})
    assert found
    return prompted(found, config(folder), guidance)


def asked(known: Conditions, how: Any) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, at steps of the table, and the prompts."""
    steps, x = torch.tensor([10, 500, 800, 990]), torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = how.table.sigmas[steps].float()
    return x * per_sample((1 + sigma**2).sqrt(), x), sigma, known.encode(PROMPTS)


def test_prompts_are_encoded_as_its_pipeline_does(root: Path, pipeline: Any) -> None:
    known = make_conditions(config(root / "sd"), PROMPTS)
    theirs, empty = pipeline.encode_prompt(list(PROMPTS), "cpu", 1, True, negative_prompt=[""] * 4)
    torch.testing.assert_close(known.embed(known.encode(PROMPTS)), theirs, atol=1e-5, rtol=0)
    assert known.unconditional is not None and known.width == 32
    torch.testing.assert_close(known.embed(known.unconditional[None])[0], empty[0], atol=1e-5, rtol=0)
    pooled = make_conditions(config(root / "sd", "clip"), PROMPTS)
    tokens = known.encode(PROMPTS)
    assert torch.equal(known.vectors(tokens), pooled.embed(tokens))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_denoiser_is_what_diffusers_predicts(prediction: str, tmp_path: Path) -> None:
    theirs = write_stable_diffusion(tmp_path, prediction)
    denoiser, known = source(tmp_path).open(CPU), make_conditions(config(tmp_path), PROMPTS)
    assert isinstance(denoiser, EDMDenoiser)
    how = denoiser.preconditioning
    assert isinstance(how, Stepped)
    assert (how.prediction, how.table.schedule) == (prediction, "scaled_linear")
    assert how.span == pytest.approx((0.02917, 14.6146), rel=1e-4)
    x_t, sigma, tokens = asked(known, how)
    scale = per_sample((1 + sigma**2).sqrt(), x_t)
    with torch.no_grad():
        steps = torch.tensor([10, 500, 800, 990])
        out = theirs.unet(x_t / scale, steps, known.embed(tokens)).sample
        ours = denoiser(x_t, sigma, tokens)
    s = per_sample(sigma, x_t)
    wanted = x_t - s * out if prediction == "epsilon" else x_t / scale**2 - s / scale * out
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_guidance_goes_away_from_the_empty_prompt_and_its_gradient_too(root: Path, pipeline: Any) -> None:
    plain, known = source(root / "sd").open(CPU), make_conditions(config(root / "sd"), PROMPTS)
    guided = load_teacher(source(root / "sd", 7.5))
    assert isinstance(guided, Guided) and isinstance(plain, EDMDenoiser)
    x_t, sigma, tokens = asked(known, plain.preconditioning)
    none, cotangent = torch.stack([known.unconditional] * 4), torch.randn_like(x_t)  # type: ignore[list-item]
    x_t.requires_grad_()
    away = plain(x_t, sigma, none)
    wanted = away + 7.5 * (plain(x_t, sigma, tokens) - away)
    (gradient,) = torch.autograd.grad(wanted, x_t, cotangent)
    request = [pack(t) for t in (x_t, sigma, tokens)]
    pool = BatchDenoiser(lambda device: load_teacher(source(root / "sd", 7.5), device), 0)
    answers = [pool.outcomes([Request(kind, tuple(arrays), 0.0, None)]) for kind, arrays in (  # type: ignore[arg-type]
        ("denoise", request), ("vjp", [*request, pack(cotangent)]),
    )]  # fmt: skip
    for (answer,), expected in zip(answers, (wanted, gradient), strict=True):
        torch.testing.assert_close(unpack(answer.array), expected.detach(), rtol=1e-6, atol=1e-6)  # type: ignore[union-attr]


def gaussian(mean: float, std: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The exact denoiser of N(mean, std^2) under a condition above 0, of N(0, 1) under none."""

    def denoiser(x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        m, s2 = mean * (condition > 0), torch.where(condition > 0, std**2, 1.0)
        return (s2 * x_t + sigma**2 * m) / (s2 + sigma**2)

    return denoiser


def test_a_guided_gaussian_has_the_score_of_both() -> None:
    x, sigma, condition, g = torch.randn(9).double(), torch.rand(9).double() + 0.1, torch.ones(9), 3.0
    guided = Guided(gaussian(2.0, 0.5), torch.tensor(0.0), g)
    score = (guided(x, sigma, condition) - x) / sigma**2
    of_condition, of_none = (2.0 - x) / (0.25 + sigma**2), -x / (1 + sigma**2)
    torch.testing.assert_close(score, of_none + g * (of_condition - of_none), rtol=1e-12, atol=1e-12)


def test_another_guidance_is_another_teacher(root: Path, pipeline: Any) -> None:
    names = {source(root / "sd", g).fingerprint for g in (1.0, 2.0, 2.0, 7.5)}
    assert len(names) == 3


def test_discriminators_see_the_middle_of_the_network(root: Path, pipeline: Any) -> None:
    denoiser, known = source(root / "sd").open(CPU), make_conditions(config(root / "sd"), PROMPTS)
    assert isinstance(denoiser, EDMDenoiser)
    x_t, sigma, tokens = asked(known, denoiser.preconditioning)
    features = denoiser.features(x_t, sigma, tokens)
    assert [tuple(h.shape[1:]) for h in features] == list(denoiser.network.feature_shapes) == [(16, 8, 8), (32, 4, 4)]
    seen: list[Tensor] = []
    denoiser.network.model.mid_block.register_forward_hook(lambda *told: seen.append(told[2]))  # type: ignore[union-attr]
    denoiser(x_t, sigma, tokens)
    assert torch.equal(seen[0], features[-1])


@pytest.mark.parametrize(("heads", "widths"), [(8, (192, 352, 704, 704)), ((5, 10, 20, 20), (160, 320, 640, 640))])
def test_smaller_students_have_as_many_heads(heads: Any, widths: tuple[int, ...]) -> None:
    cut = DiffusersConditionUNetConfig(attention_head_dim=heads).cut(StudentSize(0.55 if heads == 8 else 0.5, blocks=1))
    assert (cut.block_out_channels, cut.layers_per_block) == (widths, 1)
    assert all(width % 32 == 0 for width in widths)


def test_what_is_not_read_is_refused(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path)
    file = tmp_path / "unet" / "config.json"
    for changes, message in (
        ({"addition_embed_type": "text"}, "its addition_embed_type is 'text', and only None is read"),
        ({"attention_head_dim": [4]}, "must have one entry per level"),
        ({"cross_attention_dim": [32, 32]}, "its cross_attention_dim is"),
        ({"encoder_hid_dim": 8}, "has the key 'encoder_hid_dim', which is not known here"),
    ):
        kept = file.read_text()
        change(file, **changes)
        with pytest.raises(UserError, match=message):
            inspect(str(tmp_path), {})
        file.write_text(kept)


def test_a_plan_has_the_guided_teacher(root: Path, pipeline: Any) -> None:
    plan = RunContext.of("digits", arguments(root / "sd"), str(root / "run")).plan
    assert isinstance(plan.source, Prompted) and plan.source.guidance == 7.5
    assert plan.student.classes == 32
    assert plan.student.network == plan.source.spec.network  # type: ignore[union-attr]
    plain = RunContext.of("digits", arguments(root / "sd", teacher={"from": str(root / "sd")}), str(root / "run")).plan
    answers = [count_teacher(made, Rates(1.0)).answer for made in (plain, plan)]
    assert answers[1] == pytest.approx(2 * answers[0], rel=0.02)
    stages = [count_student(made, made.first, Rates(1.0)).stages["dm"] for made in (plain, plan)]
    assert stages[0].flops < stages[1].flops


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"guidance": 2.0}}, "guidance: a teacher that is trained here never sees an empty prompt"),
        (
            {"conditions": {"kind": "prompts", "options": {"width": 32}}},
            "only a text encoder knows an empty prompt to guide away from",
        ),
        ({"conditions": {"kind": "classes"}}, "knows 32 conditions, the data have 4"),
    ],
)
def test_guidance_without_an_empty_prompt_is_refused(
    changes: dict[str, Any], message: str, root: Path, pipeline: Any
) -> None:
    with pytest.raises(UserError, match=message):
        _ = RunContext.of("digits", arguments(root / "sd", **changes), str(root / "run")).plan
