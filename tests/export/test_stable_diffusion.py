"""A student of Stable Diffusion's kind: a few updates from its teacher, then a pipeline that stock diffusers loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.ensemble import Ensemble, seeded_noise
from msd_ray.errors import UserError
from msd_ray.export import export
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext

from ..pipelines import arguments, write_stable_diffusion
from .distilled import saved, trainer_of

diffusers = pytest.importorskip("diffusers")
ASKED = ("a red car", "two dogs, one hat", "")
RATES = {"generator_lr": 1e-3, "fake_lr": 1e-3, "batch": 2, "warmup": 0}
STAGES = {
    "tsm": {"objective": "tsm", "images": 4, **RATES},
    "dm": {"objective": "dm", "images": 4, "fake_steps": 1, **RATES},
    "adm": {"objective": "adm", "images": 2, "fake_steps": 1, **RATES},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))


def planned(folder: Path, prediction: str, **changes: Any) -> Plan:
    write_stable_diffusion(folder, prediction)
    return RunContext.of("digits", arguments(folder, **changes), str(folder / "run")).plan


@pytest.mark.parametrize(("prediction", "factor"), [("epsilon", 1.0), ("v_prediction", 0.5)])
def test_a_student_is_distilled_and_exported(prediction: str, factor: float, tmp_path: Path) -> None:
    plan = planned(tmp_path / "sd", prediction, stages=STAGES, student={"channel_factor": factor})
    trainer = trainer_of(plan)
    teacher = plan.source.weights() if plan.source else None
    began = {name: value.clone() for name, value in trainer.nets.generator.state_dict().items()}
    assert teacher and (factor == 1) == all(torch.equal(began[n], v) for n, v in teacher.items() if n in began)
    losses = trainer.advance(plan.first.images)
    assert {metric.stage for metric in losses} == {"tsm", "dm", "adm"} and not trainer._skipped.in_a_row
    trained = trainer.ema.state_dict()
    assert all(value.isfinite().all() for value in trained.values())
    assert any(not torch.equal(began[name], value) for name, value in trainer.nets.generator.state_dict().items())

    uri = saved(plan, trained, tmp_path / "ensemble")
    facts = export(uri, "diffusers", None, tmp_path / "out")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert type(pipeline) is diffusers.StableDiffusionPipeline and facts["difference"] < 1e-5
    assert type(pipeline.scheduler) is diffusers.LCMScheduler and not list((tmp_path / "out").rglob("*.bin"))
    ensemble, asked = Ensemble.load(uri), list(ASKED[:2])
    z = seeded_noise([5, 6], (4, 8, 8))
    pictures = pipeline(asked, num_inference_steps=1, guidance_scale=0.0, latents=z, output_type="pt").images
    latents = pipeline(asked, num_inference_steps=1, guidance_scale=0.0, latents=z, output_type="latent").images
    ours = ensemble.generate(asked, [5, 6])
    torch.testing.assert_close(latents, ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pictures, (ensemble.codec.to_pixels(ours) / 2 + 0.5), rtol=1e-5, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        'pipeline("a red car", num_inference_steps=1, guidance_scale=0.0)' in card
        and "It was trained on 4 prompts" in card
    )


@pytest.mark.parametrize(
    ("changes", "form", "message"),
    [
        ({"codec": {}}, "diffusers", "for this student of prompts: its codec is no vae"),
        ({}, "onnx", "students of prompts are exported with --format diffusers"),
        (
            {"noise.sigma_init": 2.0},
            "diffusers",
            r"it starts at step \d+\.\d\d, an LCMScheduler at whole ones: train with noise",
        ),
    ],
)
def test_what_no_pipeline_computes_is_refused(changes: dict[str, Any], form: str, message: str, tmp_path: Path) -> None:
    plan = planned(tmp_path / "sd", "epsilon", **changes)
    assert plan.source
    weights = plan.source.weights()
    assert weights
    uri = saved(plan, weights, tmp_path / "ensemble")
    with pytest.raises(UserError, match=message):
        export(uri, form, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
