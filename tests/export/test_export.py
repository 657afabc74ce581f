"""What other programs make of an exported student is what msd_ray makes of it."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor

from msd_ray.cli import main
from msd_ray.conditions import Classes, PartitionConfig
from msd_ray.diffusion import VP, Stepped, one_step
from msd_ray.ensemble import Ensemble, read_description, read_member, seeded_noise, seeded_noises
from msd_ray.errors import MsdRayError, UserError
from msd_ray.evaluation import Row, Scores, to_records
from msd_ray.export import export, onnx_model
from msd_ray.export.export import teachers_licence
from msd_ray.export.model_card import model_card
from msd_ray.networks import DenoiserSpec, DiffusersUNetConfig, UNetConfig
from msd_ray.networks.weights import from_chunks
from msd_ray.rng import stream
from msd_ray.storage import Store

from ..runs.finished import finished
from ..serving.ensembles import PICTURES, POINTS, flip_a_bit, saved
from ..serving.prompts import saved_prompts
from ..teachers.diffusers_directories import network, write

WIDE = UNetConfig(channels=128, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.1)
ADM = DenoiserSpec(WIDE, (3, 8, 8), 10, sigma_min=0.002)

OF_DIFFUSERS = DiffusersUNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
)
STEPPED = DenoiserSpec(OF_DIFFUSERS, (3, 8, 8), 10, preconditioning=Stepped())


@pytest.fixture(scope="module")
def adm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An ensemble of two ADM students."""
    return saved(tmp_path_factory.mktemp("adm"), k=2, spec=ADM)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("pictures"), k=3)


def owned(uri: str, student: int) -> list[int]:
    ids: list[int] = Ensemble.load(uri).partition.router.ids_of(student).tolist()
    return ids


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["msd-ray", "export", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_stock_pipeline_makes_the_students_samples(adm: str, tmp_path: Path) -> None:
    from diffusers import ConsistencyModelPipeline, DiffusionPipeline

    export(adm, "diffusers", 1, tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert type(pipeline) is ConsistencyModelPipeline
    ids, seeds = owned(adm, 1), range(len(owned(adm, 1)))
    theirs = pipeline(len(ids), ids, latents=seeded_noise(seeds, ADM.sample_shape), output_type="pt").images
    ours = (Ensemble.load(adm).generate(ids, seeds) / 2 + 0.5).clamp(0, 1)
    assert ((ours > 0) & (ours < 1)).float().mean() > 0.3  # clamping hides little
    assert (theirs - ours).abs().max() < 1e-5
    assert not list((tmp_path / "out").rglob("*.bin"))


@pytest.mark.parametrize("spec", [PICTURES, POINTS])
def test_the_ensembles_pipeline_routes_each_condition_to_its_owner(spec: DenoiserSpec, tmp_path: Path) -> None:
    from msd_ray.export.ensemble_pipeline import EnsemblePipeline

    made = Ensemble.load(saved(tmp_path / "ensemble", k=3, spec=spec))
    export(str(tmp_path / "ensemble"), "diffusers", None, tmp_path / "out")
    pipeline = EnsemblePipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    theirs = pipeline(range(10), seeds=range(10), output_type="pt").images
    for condition in range(10):
        owner = made.members[int(made.partition.router.part_of(torch.tensor([condition])))]
        z = seeded_noise([condition], spec.sample_shape)
        alone = one_step(owner.build(made.conditions), z, torch.tensor([condition]), owner.sigma_init)
        assert torch.allclose(theirs[condition], alone[0], atol=1e-5)
    assert torch.allclose(theirs, made.generate(range(10), range(10)), atol=1e-5)


def test_the_ensembles_pipeline_makes_pictures_of_named_conditions(pictures: str, tmp_path: Path) -> None:
    from msd_ray.export.ensemble_pipeline import EnsemblePipeline

    export(pictures, "diffusers", None, tmp_path / "out")
    pipeline = EnsemblePipeline.from_pretrained(tmp_path / "out")
    (one, two) = pipeline(["digit 3", 7], seeds=[5, 6]).images
    assert one.size == two.size == (8, 8)
    assert len(pipeline(3, generator=torch.Generator().manual_seed(0)).images) == 1
    for wrong in ({"conditions": "dog"}, {"conditions": [1, 2], "seeds": [1]}, {"conditions": 0, "output_type": "np"}):
        with pytest.raises(UserError):
            pipeline(**wrong)


def test_students_of_several_steps_go_into_the_ensembles_pipeline(tmp_path: Path) -> None:
    from msd_ray.export.ensemble_pipeline import EnsemblePipeline

    uri = saved(tmp_path / "ensemble", k=2, timesteps=2, spec=POINTS)
    export(uri, "diffusers", None, tmp_path / "out")
    theirs = EnsemblePipeline.from_pretrained(tmp_path / "out")(range(4), seeds=range(4), output_type="pt").images
    assert torch.allclose(theirs, Ensemble.load(uri).generate(range(4), range(4)), atol=1e-4)
    with pytest.raises(UserError, match="several steps"):
        export(uri, "onnx", 0, tmp_path / "onnx")


@pytest.mark.parametrize("k", [1, 2])
def test_students_of_two_steps_go_into_the_ensembles_pipeline(k: int, tmp_path: Path) -> None:
    from msd_ray.export.ensemble_pipeline import EnsemblePipeline

    uri = saved(tmp_path / "ensemble", k=k, steps=2)
    export(uri, "diffusers", None, tmp_path / "out")
    pipeline, ours = EnsemblePipeline.from_pretrained(tmp_path / "out"), Ensemble.load(uri).generate(range(4), range(4))
    assert torch.allclose(pipeline(range(4), seeds=range(4), output_type="pt").images, ours, atol=1e-5)
    drawn = pipeline([3], generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert drawn.isfinite().all()


@pytest.mark.parametrize("sigma_min", [0.0, 0.002])
def test_a_stock_pipeline_makes_the_samples_of_a_student_of_two_steps(sigma_min: float, tmp_path: Path) -> None:
    uri = saved(tmp_path / "ensemble", k=2, spec=replace(ADM, sigma_min=sigma_min), steps=2)
    facts = export(uri, "diffusers", 1, tmp_path / "out")
    assert facts["difference"] < 1e-5
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    ids, ensemble = owned(uri, 1)[:2], Ensemble.load(uri)
    noises = [stream("sample", seed) for seed in (5, 6)]
    theirs = pipeline(2, num_inference_steps=2, generator=noises, class_labels=torch.tensor(ids), output_type="pt")
    ours = ensemble.generate(ids, [5, 6], steps=2)
    assert torch.allclose(theirs.images, (ours / 2 + 0.5).clamp(0, 1), atol=1e-5)
    assert not torch.allclose(ensemble.generate(ids, [5, 6], steps=1), ours, atol=1e-2)
    assert "num_inference_steps=2" in (tmp_path / "out" / "README.md").read_text()


def test_levels_that_no_consistency_scheduler_has_are_refused(tmp_path: Path) -> None:
    uri = saved(tmp_path / "ensemble", k=2, spec=replace(ADM, sigma_min=0.0), steps=3)
    said = r"^diffusers' consistency scheduler takes its steps from a Karras grid that ends at 0, where none has the l"
    with pytest.raises(UserError, match=said):
        export(uri, "diffusers", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_experts_for_phases_are_exported_as_denoisers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = saved(tmp_path / "ensemble", k=1, timesteps=2, spec=POINTS, steps=2)
    with pytest.raises(UserError, match="these students make a sample in several steps"):
        export(uri, "diffusers", 0, tmp_path / "out")
    export(uri, "safetensors", 1, tmp_path / "alone")
    card = (tmp_path / "alone" / "README.md").read_text()
    assert "it answers at noise levels above 2.515" in card and "few_steps" not in card
    known = {"x_t": torch.ones(1, 2), "sigma": torch.tensor([80.0]), "condition": torch.tensor([3])}
    with monkeypatch.context() as there:
        there.chdir(tmp_path / "alone")
        exec(card.split("```python")[1].split("```")[0], known)
    member = Ensemble.load(uri).members[1].build(Classes.numbered(10))
    torch.testing.assert_close(known["x0"], member(known["x_t"], known["sigma"], known["condition"]))


def test_one_student_of_two_steps_is_exported_as_safetensors(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = saved(tmp_path / "ensemble", k=2, steps=2)
    code, _, err = run(capsys, monkeypatch, uri, "--format", "onnx", "--student", "0", "-o", str(tmp_path / "out"))
    assert code == 2 and len(err.splitlines()) == 1
    assert "these students make a sample in several steps: take --format safetensors" in err
    export(uri, "safetensors", 0, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "out")
    ids = owned(uri, 0)[:3]
    known = {"noises": seeded_noises(ids, (1, 8, 8), 2), "condition": torch.tensor(ids)}
    with torch.no_grad():
        exec(card.split("```python")[1].split("```")[0], known)
    assert torch.allclose(known["x"], Ensemble.load(uri).generate(ids, ids), atol=1e-5)


def in_onnxruntime(folder: Path, noise: Tensor, condition: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (sample,) = session.run(None, {"noise": noise.numpy(), "condition": condition.numpy()})
    return torch.from_numpy(np.asarray(sample))


@pytest.mark.parametrize("spec", [PICTURES, POINTS, STEPPED])
def test_onnxruntime_makes_the_students_samples_in_batches_of_any_size(spec: DenoiserSpec, tmp_path: Path) -> None:
    uri = saved(tmp_path / "ensemble", k=3, spec=spec)
    export(uri, "onnx", 2, tmp_path / "out")
    for n in (1, 2, 5):
        condition, seeds = torch.tensor([owned(uri, 2)[i % 3] for i in range(n)]), range(n)
        theirs = in_onnxruntime(tmp_path / "out", seeded_noise(seeds, spec.sample_shape), condition)
        ours = Ensemble.load(uri).generate(condition, seeds)
        assert (theirs - ours).abs().max() < 1e-4 * max(1, ours.abs().max())


def test_a_model_that_makes_other_samples_is_not_written(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model, "TOLERANCE", 0.0)
    with pytest.raises(MsdRayError, match="onnxruntime makes other samples"):
        export(pictures, "onnx", 0, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_safetensors_hold_a_student_and_its_description(pictures: str, tmp_path: Path) -> None:
    export(pictures, "safetensors", 1, tmp_path / "out")
    known = json.loads((tmp_path / "out" / "config.json").read_text())
    student = DenoiserSpec.from_json(known["spec"]).build().eval()
    student.load_state_dict(from_chunks([(tmp_path / "out" / "model.safetensors").read_bytes()], "here"))
    ids = [int(i) for i in known["conditions"]]
    assert ids == owned(pictures, 1)
    with torch.no_grad():
        theirs = one_step(student, seeded_noise(ids, (1, 8, 8)), torch.tensor(ids), known["sigma_init"])
    assert torch.allclose(theirs, Ensemble.load(pictures).generate(ids, ids), atol=1e-5)


def test_the_model_card_has_recipe_scores_and_what_it_may_be_used_for(tmp_path: Path) -> None:
    context = finished(tmp_path / "run", [])
    scores = Scores(64, 1.25, 0.5, 0.5, 0.25, fid_ratio=2.0, fid_ratio_n=32)
    (row,) = to_records([Row("ensemble", scores)])
    context.store.write("evaluation.json", json.dumps({"key": "any", "rows": [row]}).encode())
    export(context.store.uri, "safetensors", 0, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\n")
    for said in ("student 0 of 2", "| ensemble | 1.25@64 |", "fake_steps: 2", "0 (", "toy2d", "licence is not known"):
        assert said in card


def test_the_licence_is_that_of_the_teachers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "teacher", network("UNet2DModel"), DDPMScheduler())
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    recipe = {"name": "tiny", "teacher": {"source": "file", "options": {"path": str(folder)}}}
    assert teachers_licence(recipe) == "cc-by-nc-4.0"
    for unknown in ({}, {"teacher": {"source": "a:B"}}, {"teacher": {"source": "file", "options": {"path": "gone"}}}):
        assert teachers_licence(unknown) == ""
    known = replace(read_description(Store(saved(tmp_path / "ensemble", k=1))), recipe=recipe)
    card = model_card(known, [read_member(known, 0)], False, "onnx", teachers_licence(recipe), [])
    assert card.startswith("---\nlicense: other\nlicense_name: cc-by-nc-4.0\n")
    assert "The licence of the teacher: cc-by-nc-4.0." in card


REFUSED: list[tuple[list[str], str]] = [
    (["--format", "pickle"], "there is no such format"),
    (["--format", "onnx"], "choose one of the 3 students with --student 0 to 2"),
    (["--format", "onnx", "--student", "3"], "there are students 0 to 2"),
    (["--format", "diffusers", "--student", "0"], "as where channels are fewer than 128"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_cannot_be_exported_is_one_line(
    options: list[str], said: str, pictures: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, pictures, *options, "-o", str(tmp_path / "out"))
    assert code == 2 and said in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (POINTS, "its network is no UNet"),
        (DenoiserSpec(WIDE, (3, 8, 8), 10, preconditioning=VP()), "its preconditioning is 'vp'"),
        (DenoiserSpec(UNetConfig("unet", 160, (1, 2), 1, (8, 4)), (3, 8, 8), 10), "attention heads have one width"),
    ],
)
def test_students_that_diffusers_cannot_express_are_refused(spec: DenoiserSpec, said: str, tmp_path: Path) -> None:
    uri = saved(tmp_path / "ensemble", k=1, spec=spec)
    with pytest.raises(UserError, match=said):
        export(uri, "diffusers", None, tmp_path / "out")


def test_an_existing_directory_stays_as_it_is(pictures: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="is there already"):
        export(pictures, "safetensors", 0, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_damaged_student_leaves_nothing(tmp_path: Path) -> None:
    uri = saved(tmp_path / "ensemble")
    flip_a_bit(tmp_path / "ensemble" / "student-0001.safetensors")
    with pytest.raises(MsdRayError, match="damaged"):
        export(uri, "safetensors", 1, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["ensemble"]


@pytest.mark.parametrize(("form", "library", "extra"), [("diffusers", "diffusers", "hf"), ("onnx", "onnx", "onnx")])
def test_a_missing_extra_is_named(
    form: str, library: str, extra: str, adm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"pip install 'msd-ray\[{extra}\]'"):
        export(adm, form, 0, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("k", "kind"), [(1, "kmeans"), (3, "kmeans"), (2, "keywords")])
def test_the_ensembles_pipeline_routes_prompts_that_nobody_has_trained_on(k: int, kind: str, tmp_path: Path) -> None:
    from msd_ray.export.ensemble_pipeline import EnsemblePipeline

    config = PartitionConfig(k, kind, keywords=(("heart",),) if kind == "keywords" else ())
    uri = saved_prompts(tmp_path / "ensemble", k=k, config=config)
    export(uri, "diffusers", None, tmp_path / "out")
    (tmp_path / "ensemble").rename(tmp_path / "gone")
    pipeline = EnsemblePipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    ours, asked = Ensemble.load(str(tmp_path / "gone")), ["red heart", "ein Haus", "🚗 green", "blue car", "red  heart"]
    theirs = pipeline(asked, seeds=range(5), output_type="pt").images
    assert torch.allclose(theirs, ours.generate(asked, range(5)), atol=1e-5)
    assert len({place.part for place in ours.partition.place(ours.conditions, asked)}) == k
    assert pipeline("red heart", seeds=[1]).images[0].size == (8, 8)
    for wrong in ("", 3, "x" * 1001, "a\x00b"):
        with pytest.raises(UserError, match="prompt"):
            pipeline(wrong)
    kept = "".join(file.read_text() for file in (tmp_path / "out").rglob("*.json"))
    assert "house" not in kept and "owners.npy" not in kept


def test_students_of_prompts_are_exported_as_pipelines_only(tmp_path: Path) -> None:
    uri = saved_prompts(tmp_path / "ensemble", k=1)
    for form in ("onnx", "safetensors"):
        with pytest.raises(UserError, match="students of prompts are exported with --format diffusers"):
            export(uri, form, None, tmp_path / "out")
    with pytest.raises(UserError, match="its network is none of the kinds"):
        export(uri, "diffusers", 0, tmp_path / "out")
