"""An SDXL pipeline as a teacher: what it answers, guided and not, what students of it are, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.conditions import ConditionsConfig
from msd_ray.diffusion import EDMDenoiser, Guided, Stepped, per_sample
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, DiffusersSDXLConfig, StudentSize
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.teachers.inspection import inspect
from msd_ray.teachers.prompted import Prompted, prompted
from msd_ray.teachers.sources import load_source

from ..pipelines import PROMPTS, write_sdxl
from ..transformer_pipelines import of_family
from .diffusers_directories import change

pytest.importorskip("diffusers")
CPU, N = torch.device("cpu"), len(PROMPTS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def pipeline(root: Path) -> Any:
    return write_sdxl(root / "sdxl")


@pytest.fixture(autouse=True)
def _cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(root / "cache"))


def source(folder: Path, guidance: float = 1.0) -> Prompted:
    found = load_source("file", {"path": str(folder), "sigma_data": 1.0})
    assert found
    options = {"embedder": "sdxl-tokens", "encoder": str(folder)}
    return prompted(found, ConditionsConfig("prompts", options), guidance)


def asked(how: Any) -> tuple[Tensor, Tensor]:
    """x_t, at steps of the table."""
    steps, x = torch.tensor([10, 500, 800, 990]), torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = how.table.sigmas[steps].float()
    return x * per_sample((1 + sigma**2).sqrt(), x), sigma


def predicted(pipeline: Any, x: Tensor, text: Tensor, pooled: Tensor, size: float = 64.0) -> Tensor:
    """What the pipeline's own network makes of x in its coordinates."""
    sizes = torch.tensor([[size, size, 0, 0, size, size]]).repeat(len(x), 1)
    with torch.no_grad():
        out: Tensor = pipeline.unet(
            x,
            torch.tensor([10, 500, 800, 990]),
            text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
    return out


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_denoiser_is_what_diffusers_predicts(prediction: str, tmp_path: Path) -> None:
    theirs = write_sdxl(tmp_path, prediction)
    denoiser, known = source(tmp_path).open(CPU), source(tmp_path).conditions.make()
    assert isinstance(denoiser, EDMDenoiser)
    how = denoiser.preconditioning
    assert isinstance(how, Stepped)
    assert (how.prediction, how.table.schedule) == (prediction, "scaled_linear")
    x_t, sigma = asked(how)
    s = per_sample(sigma, x_t)
    scale = (1 + s**2).sqrt()
    text, _, pooled, _ = theirs.encode_prompt(list(PROMPTS), device="cpu", do_classifier_free_guidance=False)
    out = predicted(theirs, x_t / scale, text, pooled)
    wanted = x_t - s * out if prediction == "epsilon" else x_t / scale**2 - s / scale * out
    with torch.no_grad():
        ours = denoiser(x_t, sigma, known.encode(PROMPTS))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("zeros", [True, False])
def test_guidance_goes_away_from_what_its_pipeline_gives_for_no_prompt(zeros: bool, tmp_path: Path) -> None:
    theirs = write_sdxl(tmp_path, zeros=zeros)
    guided, known = load_teacher(source(tmp_path, 7.5)), source(tmp_path).conditions.make()
    assert isinstance(guided, Guided) and isinstance(guided.denoiser, EDMDenoiser)
    x_t, sigma = asked(guided.denoiser.preconditioning)
    s = per_sample(sigma, x_t)
    text, empty, pooled, of_empty = theirs.encode_prompt(list(PROMPTS), device="cpu")
    assert zeros == (not empty.any()) == (not of_empty.any())
    given, none = (
        x_t - s * predicted(theirs, x_t / (1 + s**2).sqrt(), *told) for told in ((text, pooled), (empty, of_empty))
    )
    wanted = none + 7.5 * (given - none)
    with torch.no_grad():
        torch.testing.assert_close(guided(x_t, sigma, known.encode(PROMPTS)), wanted, rtol=1e-4, atol=1e-4)


def test_zeros_for_no_prompt_or_not_are_two_teachers(root: Path, pipeline: Any) -> None:
    before, file = source(root / "sdxl").fingerprint, root / "sdxl" / "model_index.json"
    kept = file.read_text()
    change(file, force_zeros_for_empty_prompt=False)
    assert source(root / "sdxl").conditions.make().fingerprint.endswith("empty")
    assert source(root / "sdxl").fingerprint != before
    file.write_text(kept)
    assert source(root / "sdxl").fingerprint == before


def test_another_size_of_images_is_told_to_the_network(root: Path, pipeline: Any) -> None:
    spec, known = source(root / "sdxl").spec, source(root / "sdxl").conditions.make()
    assert spec and isinstance(spec.network, DiffusersSDXLConfig)
    other = replace(spec, network=replace(spec.network, image_size=48)).build().eval()
    weights = source(root / "sdxl").weights()
    assert weights
    other.load_state_dict(weights)
    x, text = torch.randn(4, 4, 8, 8), known.embed(known.encode(PROMPTS))
    with torch.no_grad():
        out = other.network(x, torch.tensor([10, 500, 800, 990]), text)
    wanted = predicted(pipeline, x, text[:, 1:], text[:, 0, :40], 48.0)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, predicted(pipeline, x, text[:, 1:], text[:, 0, :40]), rtol=1e-3)


def test_discriminators_see_the_middle_of_the_network(root: Path, pipeline: Any) -> None:
    denoiser, known = source(root / "sdxl").open(CPU), source(root / "sdxl").conditions.make()
    assert isinstance(denoiser, EDMDenoiser)
    x_t, sigma, tokens = *asked(denoiser.preconditioning), known.encode(PROMPTS)
    features = denoiser.features(x_t, sigma, tokens)
    assert [tuple(h.shape[1:]) for h in features] == list(denoiser.network.feature_shapes) == [(16, 8, 8), (32, 4, 4)]
    seen: list[Tensor] = []
    model: Any = denoiser.network.model
    model.mid_block.register_forward_hook(lambda *told: seen.append(told[2]))
    denoiser(x_t, sigma, tokens)
    assert torch.equal(seen[0], features[-1])


def test_students_are_cut_to_smaller_sizes(root: Path, pipeline: Any) -> None:
    spec = source(root / "sdxl").spec
    assert spec
    smaller = replace(spec, network=spec.network.cut(StudentSize(0.5)))
    assert smaller.parameters() < spec.parameters() / 2
    assert (smaller.network.block_out_channels, smaller.network.pooled) == ((8, 16), 40)  # type: ignore[attr-defined]
    assert DenoiserSpec.from_json(smaller.to_json()) == smaller
    assert smaller.build()(torch.randn(2, 4, 8, 8), torch.ones(2), torch.randn(2, 17, 80)).shape == (2, 4, 8, 8)


def test_a_network_of_the_published_shape() -> None:
    assert DenoiserSpec(DiffusersSDXLConfig(), (4, 128, 128), 2048).parameters() == 2_567_463_684
    assert DiffusersSDXLConfig().pixels((4, 128, 128)) == 1024


def test_a_plan_starts_students_from_the_guided_teacher(root: Path, pipeline: Any) -> None:
    plan = RunContext.of("digits", of_family("sdxl", root / "sdxl"), None).plan
    assert isinstance(plan.source, Prompted) and plan.source.guidance == 7.5 and plan.student.classes == 80
    assert plan.student.network == plan.source.spec.network  # type: ignore[union-attr]


CONFIG = "unet/config.json"
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "levels": (
        {"transformer_layers_per_block": [1]},
        "transformer_layers_per_block, where it is a list, must have one",
    ),
    "enormous depth": ({"transformer_layers_per_block": [1, 10**9]}, "transformer_layers_per_block"),
    "enormous breadth": ({"block_out_channels": [16] * 99}, "block_out_channels"),
    "no pooled vector": ({"addition_time_embed_dim": 256}, "must be above 6 times addition_time_embed_dim"),
    "narrow tokens": ({"cross_attention_dim": 32}, "whose tokens have at least 40 entries, not 32"),
    "several widths of tokens": ({"cross_attention_dim": [80, 80]}, "its cross_attention_dim is"),
    "a wider pooled vector": ({"projection_class_embeddings_input_dim": 96}, "has the shape"),
    "a refiner's scores": ({"class_embed_type": "projection"}, "has the key 'class_embed_type', which is not known"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_not_read_is_refused_in_one_line(case: str, root: Path, pipeline: Any) -> None:
    changes, message = UNFIT[case]
    kept = (root / "sdxl" / CONFIG).read_text()
    change(root / "sdxl" / CONFIG, **changes)
    try:
        with pytest.raises(UserError) as refused:
            inspect(str(root / "sdxl"), {})
    finally:
        (root / "sdxl" / CONFIG).write_text(kept)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_network_takes_prompts_of_its_own_embedder_only(root: Path, pipeline: Any) -> None:
    changes: dict[str, Any] = {
        "conditions": {"kind": "prompts", "options": {"width": 80}},
        "teacher": {"from": str(root / "sdxl")},
    }
    with pytest.raises(UserError, match=r"diffusers-sdxl takes prompts as conditions\.options\.embedder=sdxl-tokens"):
        _ = RunContext.of("digits", of_family("sdxl", root / "sdxl", **changes), None).plan
