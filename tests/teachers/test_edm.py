"""Files as EDM writes them, read without executing anything of them."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.diffusion import EDM, IDDPM, VE, VP, Preconditioning
from msd_ray.errors import UserError
from msd_ray.teachers.converted import read
from msd_ray.teachers.edm import EDMFile
from msd_ray.teachers.sources import load_source
from tests.golden.vectors import Vectors, close

from .edm_files import snapshot, write

PAIRS = [
    ("edm-ddpmpp-cond", "EDM", EDM(), "DDPM++"),
    ("edm-ddpmpp-uncond", "VP", VP(), "DDPM++"),
    ("edm-ncsnpp-cond", "EDM", EDM(), "NCSN++"),
    ("edm-ncsnpp-uncond", "VE", VE(), "NCSN++"),
    ("edm-adm", "EDM", EDM(), "ADM"),
    ("edm-iddpm", "iDDPM", IDDPM(), "ADM"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("name", "kind", "how", "called"), PAIRS)
def test_a_teacher_is_what_the_authors_compute(
    tmp_path: Path, name: str, kind: str, how: Preconditioning, called: str
) -> None:
    path = write(tmp_path / "network-snapshot-200000.pkl", snapshot(name, kind))
    teacher = load_source("file", {"path": str(path)})
    assert teacher and teacher.spec
    assert teacher.spec.preconditioning == how
    v = Vectors(name, f"{kind}Precond/")
    label = v["labels"] if v.has("labels") else torch.zeros(len(v["x"]), 0)
    denoiser = teacher.open(torch.device("cpu"))
    answer = denoiser(v["x"].float(), v["sigma"].float(), label.float())
    close(answer.double(), v["D"], 2e-5 if kind == "VP" else 1e-5)  # VP's input of up to 999 rounds its angles
    assert teacher.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read(EDMFile(str(path))).network == called


def test_a_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.pkl", snapshot("edm-ncsnpp-cond", "EDM"))
    first = load_source("edm", {"path": str(path)})
    monkeypatch.setattr(EDMFile, "read", None)
    again = load_source("file", {"path": str(path)})
    assert first == again
    assert again and again.weights()
    assert pickle.loads(pickle.dumps(again)) == again


def test_what_is_converted_is_a_teacher_of_ours(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.pkl", snapshot("edm-ddpmpp-cond", "VP"))
    teacher = load_source("edm", {"path": str(path)})
    (folder,) = cache.iterdir()
    bundle = load_source("file", {"path": str(folder)})
    assert teacher and bundle
    assert (bundle.fingerprint, bundle.spec) == (teacher.fingerprint, teacher.spec)


def test_a_damaged_copy_in_the_cache_is_made_anew(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.pkl", snapshot("edm-ncsnpp-cond", "EDM"))
    teacher = load_source("edm", {"path": str(path)})
    (kept,) = cache.glob("*/denoiser.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert teacher and teacher.weights()
    path.write_bytes(b"another")
    kept.unlink()
    with pytest.raises(UserError, match="is no longer the file that this run began with"):
        teacher.weights()


def test_half_precision_is_widened(tmp_path: Path) -> None:
    held = snapshot("edm-ddpmpp-cond", "EDM")
    model = held["ema"].meta["state"]["_modules"]["model"].meta["state"]["_modules"]["map_layer0"].meta["state"]
    model["_parameters"] = {name: torch.nn.Parameter(p.half(), False) for name, p in model["_parameters"].items()}
    checkpoint = read(EDMFile(str(write(tmp_path / "a.pkl", held))))
    assert checkpoint.weights["network.embedding.noise_in.weight"].dtype == torch.float32


CHANGED: list[tuple[dict[str, Any], str]] = [
    (
        {"model_type": "VisionTransformer"},
        "its network is a 'VisionTransformer', neither a SongUNet nor a DhariwalUNet",
    ),
    ({"encoder_type": "skip"}, "its SongUNet is neither DDPM++ nor NCSN++"),
    ({"decoder_type": "skip"}, "its network has an embedding or a decoder that no published one has"),
    ({"model_channels": 12}, "has the shape [8, 5], its configuration [12, 5]"),
    ({"model_channels": 7}, "channels must be a multiple of 4"),
    ({"model_channels": 10**9}, "less than or equal to 65536"),
    ({"model_channels": "8"}, "valid integer"),
    ({"num_blocks": 10**6}, "less than or equal to 256"),
    ({"num_blocks": 2}, "its network lacks the tensor network"),
    ({"channel_mult": [2] * 17}, "at most 16 items"),
    ({"label_dim": 6}, "its tensor network.embedding.label.weight has the shape"),
    ({"img_resolution": 18}, "3 levels need a resolution divisible by 4, not 18"),
    ({"attn_resolutions": []}, "its network has, where its configuration does not, the tensor"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGED)
def test_a_configuration_that_does_not_fit_the_weights(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "a.pkl", snapshot("edm-ddpmpp-cond", "EDM", **change))
    with pytest.raises(UserError) as told:
        read(EDMFile(str(path)))
    assert f"{path} holds no teacher that can be read: " in str(told.value)
    assert reason in str(told.value)


@pytest.mark.parametrize("kind", ["SiD", "Precond"])
def test_another_preconditioning_is_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.pkl", snapshot("edm-ddpmpp-cond", kind))
    with pytest.raises(UserError, match=f"its preconditioning is a '{kind}Precond', which is none of EDMPrecond, "):
        read(EDMFile(str(path)))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    held = snapshot("edm-ddpmpp-cond", "EDM")
    model = held["ema"].meta["state"]["_modules"]["model"].meta["state"]["_modules"]["map_layer0"].meta["state"]
    model["_parameters"]["weight"].data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"its tensor network\.embedding.noise_in.weight is not of finite numbers"):
        read(EDMFile(str(write(tmp_path / "a.pkl", held))))
