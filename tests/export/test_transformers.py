"""Students of PixArt's, of Stable Diffusion 3's and of SDXL's kind: a few updates from their teacher, then a pipeline
that stock diffusers loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.diffusion import NoiseTable
from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.export import export
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext

from ..transformer_pipelines import FAMILIES, of_family
from .distilled import as_the_card_says, saved, trainer_of

diffusers = pytest.importorskip("diffusers")
ASKED, SEEDS = ["a red car", "two dogs, one hat"], [5, 6]
RATES = {"generator_lr": 1e-3, "fake_lr": 1e-3, "batch": 2, "warmup": 0}
STAGES = {
    "tsm": {"objective": "tsm", "images": 2, **RATES},
    "adm": {"objective": "adm", "images": 2, "fake_steps": 1, **RATES},
}
LEVELS: list[float] = NoiseTable("linear").sigmas.tolist()
"""Of PixArt's table."""
STABLE: list[float] = NoiseTable("scaled_linear", beta_start=0.00085, beta_end=0.012).sigmas.tolist()
"""Of SDXL's."""
CLASSES = {
    "pixart": "PixArtAlphaPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sdxl": "StableDiffusionXLPipeline",
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))


def planned(family: str, folder: Path, **changes: Any) -> Plan:
    FAMILIES[family][0](folder)
    return RunContext.of("digits", of_family(family, folder, **changes), str(folder / "run")).plan


def with_the_teachers_weights(plan: Plan, where: Path) -> str:
    assert plan.source
    weights = plan.source.weights()
    assert weights
    return saved(plan, weights, where)


def check_export(family: str, uri: str, out: Path) -> None:
    assert export(uri, "diffusers", None, out)["difference"] < 1e-5
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out, local_files_only=True)
    assert type(pipeline).__name__ == CLASSES[family] and not list(out.rglob("*.bin"))
    ensemble = Ensemble.load(uri)
    ours = ensemble.generate(ASKED, SEEDS)
    latents = as_the_card_says(pipeline, out, ASKED, SEEDS, output_type="latent")
    torch.testing.assert_close(latents, ours, rtol=1e-5, atol=1e-5)
    pictures = as_the_card_says(pipeline, out, ASKED, SEEDS, output_type="pt")
    torch.testing.assert_close(pictures, ensemble.codec.to_pixels(ours) / 2 + 0.5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_distilled_and_exported(family: str, tmp_path: Path) -> None:
    plan = planned(family, tmp_path / family, stages=STAGES)
    trainer = trainer_of(plan)
    teacher = plan.source.weights() if plan.source else None
    began = {name: value.clone() for name, value in trainer.nets.generator.state_dict().items()}
    assert teacher and all(torch.equal(began[name], value) for name, value in teacher.items() if name in began)
    losses = trainer.advance(plan.first.images)
    assert {metric.stage for metric in losses} == {"tsm", "adm"} and not trainer._skipped.in_a_row
    trained = trainer.ema.state_dict()
    assert all(value.isfinite().all() for value in trained.values())
    assert any(not torch.equal(began[name], value) for name, value in trainer.nets.generator.state_dict().items())
    check_export(family, saved(plan, trained, tmp_path / "ensemble"), tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "sigma_init"),
    [("pixart", LEVELS[999]), ("pixart", LEVELS[400]), ("sd3", 999.0), ("sd3", 2.0), ("sdxl", STABLE[399])],
)
def test_students_may_start_at_other_levels(family: str, sigma_init: float, tmp_path: Path) -> None:
    changes = {"noise.sigma_init": sigma_init} | ({"noise.sigma_max": sigma_init} if sigma_init > 80 else {})
    plan = planned(family, tmp_path / family, **changes)
    check_export(family, with_the_teachers_weights(plan, tmp_path / "ensemble"), tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (
            "pixart",
            {"noise.sigma_init": 2.0},
            r"it starts at step 395\.95, an LCMScheduler at whole ones: train with noise\.sigma_init=2\.000482",
        ),
        ("sd3", {"codec": {}}, "for this student of prompts: its codec is no vae"),
    ],
)
def test_what_no_pipeline_computes_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    uri = with_the_teachers_weights(planned(family, tmp_path / family, **changes), tmp_path / "ensemble")
    with pytest.raises(UserError, match=message):
        export(uri, "diffusers", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
