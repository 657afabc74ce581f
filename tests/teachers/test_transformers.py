"""Pipelines of PixArt's and of Stable Diffusion 3's kind as teachers: what they answer, guided and not, what students
of them are, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.conditions import ConditionsConfig
from msd_ray.diffusion import EDMDenoiser, Guided, Stepped, per_sample
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, DiffusersPixArtConfig, DiffusersSD3Config, StudentSize
from msd_ray.networks.weights import to_chunks
from msd_ray.profiling.counts import count_student, count_teacher
from msd_ray.profiling.rates import Rates
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.teachers.inspection import inspect
from msd_ray.teachers.prompted import Prompted, prompted
from msd_ray.teachers.sources import load_source

from ..pipelines import PROMPTS
from ..transformer_pipelines import FAMILIES, TRANSFORMERS, of_family, write_pixart, write_sd3
from .diffusers_directories import change

diffusers = pytest.importorskip("diffusers")
CPU, BOTH = torch.device("cpu"), pytest.mark.parametrize("family", TRANSFORMERS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def pipelines(root: Path) -> dict[str, Any]:
    return {family: FAMILIES[family][0](root / family) for family in TRANSFORMERS}


@pytest.fixture(autouse=True)
def _cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(root / "cache"))


def source(root: Path, family: str, guidance: float = 1.0) -> Prompted:
    found = load_source("file", {"path": str(root / family), "sigma_data": 1.0})
    assert found
    options = {"embedder": FAMILIES[family][1], "encoder": str(root / family)}
    return prompted(found, ConditionsConfig("prompts", options), guidance)


def predicted(family: str, pipeline: Any, x: Tensor, step: Tensor) -> Tensor:
    """What the pipeline's own network and encoders make of the first prompts."""
    if family == "pixart":
        text, mask, _, _ = pipeline.encode_prompt(list(PROMPTS), device="cpu", do_classifier_free_guidance=False)
        text = text.to(x)
        out: Tensor = pipeline.transformer(x, text, step, encoder_attention_mask=mask, return_dict=False)[0]
        return out[:, :4]
    text, _, pooled, _ = pipeline.encode_prompt(list(PROMPTS), None, None, "cpu", do_classifier_free_guidance=False)
    velocity: Tensor = pipeline.transformer(x, text.to(x), pooled.to(x), step, return_dict=False)[0]
    return velocity


def asked(how: Any) -> tuple[Tensor, Tensor]:
    """x_t, at steps of the table, in float64."""
    steps, x = torch.tensor([10, 500, 800, 990]), torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = how.table.sigmas[steps]
    return x.double() * per_sample(how.table.scale(sigma), x), sigma


@BOTH
def test_the_denoiser_is_what_diffusers_predicts(family: str, root: Path, pipelines: dict[str, Any]) -> None:
    denoiser, known = source(root, family).open(CPU), source(root, family).conditions.make()
    assert isinstance(denoiser, EDMDenoiser)
    how = denoiser.preconditioning
    assert isinstance(how, Stepped)
    x_t, sigma = asked(how)
    s = per_sample(sigma, x_t)
    pipeline = pipelines[family]
    pipeline.transformer.double()
    with torch.no_grad():
        if family == "pixart":
            assert (how.prediction, how.table.schedule) == ("epsilon", "linear")
            out = predicted(family, pipeline, x_t / (1 + s**2).sqrt(), torch.tensor([10, 500, 800, 990]))
            wanted = x_t - s * out
        else:
            assert (how.prediction, how.table.shift) == ("flow", 3.0)
            u = s / (1 + s)
            levels = pipeline.scheduler.sigmas.flip(0)[torch.tensor([10, 500, 800, 990])].double()
            torch.testing.assert_close(u.flatten(), levels, rtol=1e-6, atol=0)
            wanted = (1 - u) * x_t - u * predicted(family, pipeline, (1 - u) * x_t, 1000 * u.flatten())
        denoiser.double().embed = lambda tokens: known.embed(tokens).double()
        ours = denoiser(x_t, sigma, known.encode(PROMPTS))
    pipeline.transformer.float()
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


@BOTH
def test_guidance_goes_away_from_the_empty_prompt(family: str, root: Path, pipelines: dict[str, Any]) -> None:
    plain, known = source(root, family).open(CPU), source(root, family).conditions.make()
    guided = load_teacher(source(root, family, 4.5))
    assert isinstance(guided, Guided) and isinstance(plain, EDMDenoiser) and known.unconditional is not None
    x_t, sigma, tokens = *(each.float() for each in asked(plain.preconditioning)), known.encode(PROMPTS)
    x_t.requires_grad_()
    away = plain(x_t, sigma, known.encode([PROMPTS[0]] * 4) * 0 + known.unconditional)
    wanted, made = away + 4.5 * (plain(x_t, sigma, tokens) - away), guided(x_t, sigma, tokens)
    assert not torch.allclose(made, plain(x_t, sigma, tokens), rtol=1e-2)
    torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-5)
    gradients = [torch.autograd.grad(each.sum(), x_t)[0] for each in (made, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@BOTH
def test_discriminators_see_the_tokens_halfway(family: str, root: Path, pipelines: dict[str, Any]) -> None:
    denoiser, known = source(root, family).open(CPU), source(root, family).conditions.make()
    assert isinstance(denoiser, EDMDenoiser)
    x_t, sigma, tokens = *(each.float() for each in asked(denoiser.preconditioning)), known.encode(PROMPTS)
    seen: list[Any] = []
    model: Any = denoiser.network.model
    model.transformer_blocks[0].register_forward_hook(lambda *told: seen.append(told[2]))
    with torch.no_grad():
        (features,) = denoiser.features(x_t, sigma, tokens)
        denoiser(x_t, sigma, tokens)
    last = [each[1] if isinstance(each, tuple) else each for each in seen]
    assert torch.equal(last[0], last[1]) and torch.equal(features.flatten(2).mT, last[1])
    assert denoiser.network.feature_shapes == [tuple(features.shape[1:])] == [(16, 4, 4)]


def test_a_prompts_filling_is_not_seen(root: Path, pipelines: dict[str, Any]) -> None:
    denoiser, known = source(root, "pixart").open(CPU), source(root, "pixart").conditions.make()
    assert isinstance(denoiser, EDMDenoiser)
    text, x, step = known.embed(known.encode(PROMPTS)), torch.randn(4, 4, 8, 8), torch.full((4,), 500.0)
    filled = torch.where(text[..., -1:] == 1, text, torch.randn_like(text) * (torch.arange(25) < 24))
    torch.testing.assert_close(denoiser.network(x, step, filled), denoiser.network(x, step, text))
    own = torch.where(text[..., -1:] == 1, filled + 0.1 * (torch.arange(25) < 24), filled)
    assert not torch.allclose(denoiser.network(x, step, own), denoiser.network(x, step, text))


@BOTH
def test_students_are_cut_to_smaller_sizes(family: str, root: Path, pipelines: dict[str, Any]) -> None:
    spec = source(root, family).spec
    assert spec
    for size, shape in ((StudentSize(0.5), (1, 2)), (StudentSize(blocks=1), (2, 1))):
        smaller = replace(spec, network=spec.network.cut(size))
        assert smaller.parameters() < spec.parameters()
        assert (smaller.network.num_attention_heads, smaller.network.num_layers) == shape  # type: ignore[attr-defined]
        assert DenoiserSpec.from_json(smaller.to_json()) == smaller
        condition = torch.randn(2, 5, spec.classes + (family == "pixart"))
        assert smaller.build()(torch.randn(2, 4, 8, 8), torch.ones(2), condition).shape == (2, 4, 8, 8)
    with pytest.raises(ValueError, match="multipliers apply to"):
        spec.network.cut(StudentSize(multipliers=(1, 2)))


def test_layers_of_two_attentions_go_with_the_others() -> None:
    whole = DiffusersSD3Config(num_layers=6, dual_attention_layers=(0, 1, 5))
    assert whole.cut(StudentSize(blocks=2)).dual_attention_layers == (0, 1)


@BOTH
def test_a_plan_counts_the_guided_teacher(family: str, root: Path, pipelines: dict[str, Any]) -> None:
    guided, plain = (
        RunContext.of(
            "digits", of_family(family, root / family, teacher={"from": str(root / family), "guidance": g}), None
        ).plan
        for g in (7.5, 1.0)
    )
    assert isinstance(guided.source, Prompted) and guided.student.network == guided.source.spec.network  # type: ignore[union-attr]
    answers = [count_teacher(made, Rates(1.0)).answer for made in (plain, guided)]
    assert answers[1] == pytest.approx(2 * answers[0], rel=0.02)
    assert count_student(plain, plain.first, Rates(1.0)).stages["dm"].flops > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"conditions": {"kind": "prompts", "options": {"width": 64}}},
            "diffusers-sd3 takes prompts as conditions.options.embedder=sd3-tokens makes them, not hashed-ngrams",
        ),
        (
            {"network": {"kind": "unet", "attention": []}},
            "network: unet takes one vector of a prompt, not what sd3-tokens makes",
        ),
    ],
)
def test_prompts_in_another_form_are_refused(
    changes: dict[str, Any], message: str, root: Path, pipelines: dict[str, Any]
) -> None:
    plain: dict[str, Any] = {"teacher": {"from": str(root / "sd3")}}
    with pytest.raises(UserError, match=message):
        _ = RunContext.of("digits", of_family("sd3", root / "sd3", **plain, **changes), None).plan


SD3_5 = {"num_attention_heads": 24, "num_layers": 24, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}


@pytest.mark.parametrize(
    ("network", "channels", "size", "parameters"),
    [
        (DiffusersPixArtConfig(), 4, 64, 610_856_096),
        (DiffusersSD3Config(num_attention_heads=24, num_layers=24, pos_embed_max_size=192), 16, 128, 2_028_328_000),
        (DiffusersSD3Config(pos_embed_max_size=384, **SD3_5), 16, 128, 2_243_171_520),  # type: ignore[arg-type]
        (DiffusersSD3Config(num_attention_heads=38, num_layers=38, qk_norm="rms_norm"), 16, 128, 8_056_627_520),
    ],
)
def test_networks_of_published_shapes(network: Any, channels: int, size: int, parameters: int) -> None:
    assert DenoiserSpec(network, (channels, size, size), 4096).parameters() == parameters


def test_a_network_of_before_diffusers_0_28_is_read(tmp_path: Path) -> None:
    write_pixart(tmp_path)
    folder = tmp_path / "transformer"
    weights = {**diffusers.PixArtTransformer2DModel.from_pretrained(folder).state_dict()}
    weights["caption_projection.y_embedding"] = torch.zeros(120, 24)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"".join(to_chunks(weights)))
    change(folder / "config.json", _class_name="Transformer2DModel", double_self_attention=False)
    found = inspect(str(tmp_path), {})
    assert (found["network"], found["recipe"]["network"]["kind"]) == ("PixArtTransformer2DModel", "diffusers-pixart")


CONFIG, SCHEDULER = "transformer/config.json", "scheduler/scheduler_config.json"
UNFIT: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "sizes of images": ("pixart", CONFIG, {"use_additional_conditions": True}, "is also given the size of images"),
    "sizes by default": ("pixart", CONFIG, {"sample_size": 128, "use_additional_conditions": None}, "the size of imag"),
    "another norm": ("pixart", CONFIG, {"norm_type": "ada_norm"}, "its norm_type is 'ada_norm', and only"),
    "other crossed widths": ("pixart", CONFIG, {"cross_attention_dim": 24}, "its cross_attention_dim is 24, and only"),
    "no captions": ("pixart", CONFIG, {"caption_channels": None}, "must have prompts"),
    "wide captions": ("pixart", CONFIG, {"caption_channels": 48}, "has the shape [16, 24], its configuration [16, 48]"),
    "enormous depth": ("pixart", CONFIG, {"num_layers": 10**9}, "num_layers"),
    "enormous heads": ("sd3", CONFIG, {"num_attention_heads": 10**9, "caption_projection_dim": 8 * 10**9}, "num_atten"),
    "enormous positions": ("sd3", CONFIG, {"pos_embed_max_size": 10**6}, "pos_embed_max_size"),
    "positions of fewer": ("sd3", CONFIG, {"pos_embed_max_size": 3}, "takes samples of at most 6 x 6"),
    "other positions": ("sd3", CONFIG, {"pos_embed_max_size": 7}, "has the shape [1, 36, 16]"),
    "variances": ("sd3", CONFIG, {"out_channels": 8}, "gives 8 channels for 4"),
    "other captions": ("sd3", CONFIG, {"caption_projection_dim": 24}, "its caption_projection_dim is 24, and only"),
    "narrow tokens": ("sd3", CONFIG, {"joint_attention_dim": 32}, "whose tokens have at least 64 entries, not 32"),
    "another norm of queries": ("sd3", CONFIG, {"qk_norm": "layer_norm"}, "qk_norm"),
    "a shift by size": ("sd3", SCHEDULER, {"use_dynamic_shifting": True}, "depends on the size of images"),
    "another schedule": ("sd3", SCHEDULER, {"shift": 1e9}, "shift"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_not_read_is_refused_in_one_line(case: str, root: Path, pipelines: dict[str, Any]) -> None:
    family, file, changes, message = UNFIT[case]
    kept = (root / family / file).read_text()
    change(root / family / file, **changes)
    try:
        with pytest.raises(UserError) as refused:
            inspect(str(root / family), {})
    finally:
        (root / family / file).write_text(kept)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_another_guidance_and_another_encoder_are_another_teacher(tmp_path: Path) -> None:
    write_sd3(tmp_path / "sd3", t5=False)
    made: list[Callable[[], Prompted]] = [lambda g=g: source(tmp_path, "sd3", g) for g in (1.0, 4.0)]  # type: ignore[misc]
    names = {make().fingerprint for make in made}
    weights = tmp_path / "sd3" / "text_encoder_2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert len({*names, made[0]().fingerprint}) == 3
