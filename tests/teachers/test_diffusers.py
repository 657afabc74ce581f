"""Teachers in directories of diffusers: what is read is what diffusers computes; what is damaged is one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from msd_ray.diffusion import EDMDenoiser, Stepped, per_sample
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, DiffusersUNetConfig, StudentSize
from msd_ray.networks.weights import to_chunks
from msd_ray.recipes import parse_recipe
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store
from msd_ray.teachers.detection import format_of
from msd_ray.teachers.inspection import inspect
from msd_ray.teachers.sources import load_source

from .diffusers_directories import change, network, write

SCHEDULERS: dict[str, tuple[Any, str, str]] = {
    "epsilon": (diffusers.DDPMScheduler(), "epsilon", "linear"),
    "v": (
        diffusers.DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear"),
        "v_prediction",
        "scaled_linear",
    ),
    "sample": (
        diffusers.DDPMScheduler(prediction_type="sample", beta_schedule="squaredcos_cap_v2"),
        "sample",
        "squaredcos_cap_v2",
    ),
    "flow": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "flow", "flow"),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))


def opened(folder: Path, **options: Any) -> EDMDenoiser:
    source = load_source("file", {"path": str(folder), **options})
    assert source
    found = source.open(torch.device("cpu"))
    assert isinstance(found, EDMDenoiser)
    return found


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_denoiser_is_what_diffusers_predicts(name: str, kind: str, tmp_path: Path) -> None:
    made, (scheduler, prediction, schedule) = network(name), SCHEDULERS[kind]
    denoiser = opened(write(tmp_path / "teacher", made, scheduler))
    how = denoiser.preconditioning
    assert isinstance(how, Stepped) and (how.prediction, how.table.schedule) == (prediction, schedule)
    steps, labels = torch.tensor([3, 500, 900]), torch.tensor([0, 1, 1])
    sigma, x0 = how.table.sigmas[steps].float(), torch.randn(3, 3, 8, 8)
    n = torch.randn(x0.shape)
    s, scale = per_sample(sigma, x0), per_sample(how.table.scale(sigma), x0)
    x_t = x0 + s * n
    x = x_t / scale
    with torch.no_grad():
        out = made(x, how.table.step_of(sigma), labels, return_dict=False)[0][:, :3]
        ours = denoiser(x_t, sigma, labels)
    wanted = {"epsilon": x_t - s * out, "v": x / scale - s / scale * out, "sample": out, "flow": x - s / scale * out}
    assert torch.allclose(ours, wanted[kind], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel"])
def test_discriminators_find_features_of_the_shapes_that_are_said(name: str, tmp_path: Path) -> None:
    denoiser = opened(write(tmp_path / "teacher", network(name), diffusers.DDPMScheduler()))
    x, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    features = denoiser.features(x, torch.tensor([0.5, 2.0]), labels)
    assert [tuple(h.shape[1:]) for h in features] == list(denoiser.network.feature_shapes)
    assert not torch.equal(features[-1], denoiser.features(x, torch.tensor([0.5, 2.0]), 1 - labels)[-1])


def test_labels_are_not_dropped_while_a_student_trains(tmp_path: Path) -> None:
    denoiser = opened(write(tmp_path / "teacher", network("DiTTransformer2DModel"), diffusers.DDPMScheduler())).train()
    x, sigma, labels = torch.randn(64, 3, 8, 8), torch.ones(64), torch.zeros(64).long()
    assert torch.equal(denoiser(x, sigma, labels), denoiser.eval()(x, sigma, labels))


def test_students_are_cut_to_smaller_sizes(tmp_path: Path) -> None:
    for name in ("UNet2DModel", "DiTTransformer2DModel"):
        spec = load_source("file", {"path": str(write(tmp_path / name, network(name), diffusers.DDPMScheduler()))}).spec  # type: ignore[union-attr]
        assert spec
        smaller = DenoiserSpec(spec.network.cut(StudentSize(0.5, blocks=1)), (3, 8, 8), 2)
        assert smaller.parameters() < spec.parameters()
        assert DenoiserSpec.from_json(smaller.to_json()) == smaller
        with pytest.raises(ValueError, match="multipliers apply to"):
            spec.network.cut(StudentSize(multipliers=(1, 2)))


def test_a_model_without_a_scheduler_needs_options(tmp_path: Path) -> None:
    network("UNet2DModel").save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"it has no scheduler: say teacher\.options\.prediction"):
        opened(tmp_path / "model")
    table = {"schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    how = opened(tmp_path / "model", prediction="v_prediction", table=table).preconditioning
    assert isinstance(how, Stepped)
    assert how.table.sigmas[-1].item() == pytest.approx(14.6146, rel=1e-4)


def test_shards_half_precision_old_names_and_no_classes_are_read(tmp_path: Path) -> None:
    made = network("UNet2DModel", num_class_embeds=None)
    made.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    old, options = tmp_path / "old", {"prediction": "epsilon", "table": {"schedule": "linear"}}
    made.save_pretrained(old)
    (old / "diffusion_pytorch_model.safetensors").unlink()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {name: value.half() for name, value in made.state_dict().items()}
    for today, before in names.items():
        weights = {name.replace(f".{today}.", f".{before}."): value for name, value in weights.items()}
    (old / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"".join(to_chunks(weights)))
    x, sigma, labels = torch.randn(2, 3, 8, 8), torch.ones(2), torch.zeros(2).long()
    whole = opened(tmp_path / "sharded", **options)
    assert whole.state_dict().keys() == {f"network.model.{name}" for name in made.state_dict()}
    assert torch.allclose(whole(x, sigma, labels), opened(old, **options)(x, sigma, labels), atol=2e-2)


def test_the_licence_and_the_fingerprint_are_those_of_the_directory(tmp_path: Path) -> None:
    folder = write(tmp_path / "teacher", network("UNet2DModel"), diffusers.DDPMScheduler())
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\nlicense: apache-2.0\n---\n# x\n")
    source: Any = load_source("diffusers", {"path": str(folder)})
    assert source.file.read().licence == "apache-2.0"
    (folder / "README.md").write_text("")
    assert load_source("diffusers", {"path": str(folder)}).fingerprint == source.fingerprint  # type: ignore[union-attr]
    change(folder / "scheduler" / "scheduler_config.json", beta_end=0.03)
    assert load_source("diffusers", {"path": str(folder)}).fingerprint != source.fingerprint  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_what_inspect_says_makes_a_recipe_whose_students_start_as_the_teacher(
    name: str, kind: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "teacher", network(name), SCHEDULERS[kind][0])
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "labels.npy", np.arange(16) % 2)
    np.save(tmp_path / "data" / "images.npy", np.zeros((16, 3, 8, 8), np.uint8))
    found = inspect(str(folder), {})
    assert (found["network"], found["classes"], found["sample_shape"]) == (name, 2, [3, 8, 8])
    assert found["preconditioning"]["prediction"] == SCHEDULERS[kind][1]
    raw = {
        "name": "of-diffusers",
        "data": {"name": "arrays", "folder": str(tmp_path / "data")},
        "teacher": {"from": str(folder)},
        "partition": {"k": 2},
        "stages": {"only": {"objective": "dm", "images": 32, "batch": 8, "generator_lr": 1e-4}},
        **json.loads(json.dumps(found["recipe"])),
    }
    plan = RunContext(parse_recipe(raw), Store(str(tmp_path / "run"))).plan
    assert plan.source and {student.spec.denoiser for student in plan.students} == {plan.source.spec}
    levels = plan.students[0].spec.noise.grid()
    assert isinstance(how := plan.teacher.preconditioning, Stepped)
    assert torch.isin(levels, how.table.sigmas.float()).all()


def weights_of(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def replaced(folder: Path, part: str, content: bytes) -> None:
    (folder / part).write_bytes(content)


def only_pickles(folder: Path) -> None:
    weights_of(folder).rename(weights_of(folder).with_suffix(".bin"))


def cut_short(folder: Path) -> None:
    weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:-1000])


def one_tensor_less(folder: Path) -> None:
    weights = network("UNet2DModel").state_dict()
    del weights["conv_in.bias"]
    weights_of(folder).write_bytes(b"".join(to_chunks(weights)))


def not_finite(folder: Path) -> None:
    weights = network("UNet2DModel").state_dict()
    weights["conv_in.bias"] = weights["conv_in.bias"] / 0
    weights_of(folder).write_bytes(b"".join(to_chunks(weights)))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
CONFIG, INDEX, SCHEDULER = "unet/config.json", "model_index.json", "scheduler/scheduler_config.json"
Damage = Callable[[Path], Any]
BAD: dict[str, tuple[Damage, str]] = {
    "no weights": (lambda f: weights_of(f).unlink(), "has none"),
    "only pickles": (only_pickles, "has only pickled weights, which are not read"),
    "pointer": (lambda f: weights_of(f).write_bytes(LFS), "is a pointer of git LFS; run `git lfs pull`"),
    "pointer for a config": (lambda f: replaced(f, CONFIG, LFS), "config.json is a pointer of git LFS"),
    "cut short": (cut_short, "ends 1000 bytes early"),
    "a web page": (lambda f: weights_of(f).write_bytes(b"<!DOCTYPE html>"), "is not a safetensors file"),
    "one tensor less": (one_tensor_less, "lacks the tensor network.model.conv_in.bias"),
    "not finite": (not_finite, "is not of finite numbers"),
    "other widths": (lambda f: change(f / CONFIG, block_out_channels=[8, 24]), "has the shape"),
    "no config": (lambda f: (f / CONFIG).unlink(), "it has no config.json in unet"),
    "damaged config": (lambda f: replaced(f, CONFIG, b'{"a": '), "config.json is not JSON"),
    "deep config": (lambda f: replaced(f, CONFIG, b"[" * 100_000), "config.json is not JSON"),
    "a list": (lambda f: replaced(f, CONFIG, b"[]"), "config.json is no mapping"),
    "damaged index": (lambda f: replaced(f, INDEX, b"\xff\xfe"), "model_index.json is not JSON"),
    "custom code": (lambda f: change(f / INDEX, unet=["my_unet", "Cls"]), "is code of 'my_unet', not diffusers"),
    "no network": (
        lambda f: replaced(f, INDEX, b'{"vae": ["diffusers", "X"]}'),
        "names neither a unet nor a transformer",
    ),
    "odd index": (lambda f: change(f / INDEX, unet=7), "holds no teacher"),
    "wrong class": (
        lambda f: change(f / CONFIG, _class_name="AutoencoderKL"),
        "class 'AutoencoderKL', none of",
    ),
    "a class that is code": (lambda f: change(f / CONFIG, _class_name=["my_unet", "Cls"]), "none of UNet2DModel"),
    "enormous images": (lambda f: change(f / CONFIG, sample_size=10**9), "its sample_size is 1000000000, not a number"),
    "enormous widths": (lambda f: change(f / CONFIG, block_out_channels=[10**9, 10**9]), "block_out_channels"),
    "enormous depth": (lambda f: change(f / CONFIG, layers_per_block=10**9), "layers_per_block"),
    "enormous classes": (lambda f: change(f / CONFIG, num_class_embeds=10**12), "num_class_embeds is 1000000000000"),
    "no channels": (lambda f: change(f / CONFIG, in_channels=0), "its in_channels is 0"),
    "five channels": (lambda f: change(f / CONFIG, out_channels=5), "gives 5 channels for 3"),
    "text for a number": (lambda f: change(f / CONFIG, norm_num_groups="4"), "norm_num_groups"),
    "groups that do not divide": (lambda f: change(f / CONFIG, norm_num_groups=5), "divisible"),
    "sigmas as time": (
        lambda f: change(f / CONFIG, time_embedding_type="fourier"),
        "its time_embedding_type is 'fourier'",
    ),
    "unknown key": (lambda f: change(f / CONFIG, adapter="mine"), "has the key 'adapter', which is not known"),
    "unknown block": (lambda f: change(f / CONFIG, down_block_types=["SkipDownBlock2D"] * 2), "down_block_types"),
    "unknown schedule": (lambda f: change(f / SCHEDULER, beta_schedule="sigmoid"), "schedule"),
    "betas of its own": (lambda f: change(f / SCHEDULER, trained_betas=[0.1]), "betas of its own"),
    "enormous schedule": (lambda f: change(f / SCHEDULER, num_train_timesteps=10**9), "steps"),
    "unknown prediction": (lambda f: change(f / SCHEDULER, prediction_type="score"), "prediction"),
    "damaged scheduler": (lambda f: replaced(f, SCHEDULER, b"x"), "scheduler_config.json is not JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_directories_are_one_line(case: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "teacher", network("UNet2DModel"), diffusers.DDPMScheduler())
    damage, said = BAD[case]
    damage(folder)
    with pytest.raises(UserError) as refused:
        load_source("file", {"path": str(folder)})
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.glob("cache/converted-*"))


def test_shards_are_looked_for_in_the_directory_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "teacher", network("UNet2DModel"), diffusers.DDPMScheduler())
    weights_of(folder).unlink()
    replaced(
        folder, "unet/diffusion_pytorch_model.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}'
    )
    with pytest.raises(UserError, match="its index names the file"):
        load_source("file", {"path": str(folder)})


def test_a_directory_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    assert format_of(str(write(tmp_path / "pipeline", network("UNet2DModel")))) == "diffusers"
    assert format_of(str(tmp_path / "pipeline" / "unet")) == "diffusers"
    with pytest.raises(UserError, match="it is no directory of a teacher"):
        format_of(str(tmp_path))


def test_widths_and_blocks_are_of_equal_length() -> None:
    with pytest.raises(ValueError, match="one entry per level"):
        DiffusersUNetConfig(block_out_channels=(8, 16))
