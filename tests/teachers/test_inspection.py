"""`msd-ray teacher inspect` and `convert`."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.cli import main
from msd_ray.networks import DenoiserSpec
from msd_ray.teachers.sources import load_source
from tests.golden.vectors import Vectors

from .edm_files import snapshot, write

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Any:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["msd-ray", "teacher", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


def test_a_snapshot_of_edm(tmp_path: Path, said: Any) -> None:
    path = write(tmp_path / "a.pkl", snapshot("edm-ncsnpp-uncond", "VE"))
    found = json.loads(said("inspect", str(path), "--json"))
    counted = sum(w.numel() for n, w in Vectors("edm-ncsnpp-uncond").weights().items() if _is_parameter(n))
    assert (found["network"], found["parameters"]) == ("NCSN++", counted)
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found["sample_shape"], found["classes"]) == ([1, 16, 16], 0)
    assert (found["preconditioning"], found["noise_levels"]) == ({"kind": "ve"}, [0.02, 100.0])
    assert found["licence"].startswith("CC BY-NC-SA 4.0")
    spec = DenoiserSpec.from_json({**found["recipe"], "sample_shape": [1, 16, 16], "classes": 0})
    assert counted == spec.parameters() + 9 * 16  # the layer of the augmentation
    lines = said("inspect", str(path))
    assert "noise levels: 0.02 to 100\n" in lines
    assert "for a recipe: network: {kind: songunet, form: ncsn++, channels: 8, " in lines


def _is_parameter(name: str) -> bool:
    return not name.endswith(("resample_filter", "freqs"))


def test_a_file_of_openai_and_the_bundle_made_of_it(tmp_path: Path, said: Any) -> None:
    torch.save(Vectors("openai-adm").weights(), tmp_path / "o.pt")
    options = ["resolution=16", "attention_order=legacy", "sigma_min=0.002"]
    found = json.loads(said("inspect", str(tmp_path / "o.pt"), *options, "--json"))
    assert (found["format"], found["network"], found["sample_shape"]) == ("adm", "ADM", [3, 16, 16])
    assert found["preconditioning"] == {"kind": "edm", "noise_scale": 1000.0}
    assert found["noise_levels"] == [0.0, None]
    assert (
        said("convert", str(tmp_path / "o.pt"), *options, "-o", str(tmp_path / "b")) == f"teacher: {tmp_path / 'b'}\n"
    )
    bundle = json.loads(said("inspect", str(tmp_path / "b"), "--json"))
    assert (bundle["format"], bundle["licence"]) == ("bundle", found["licence"])
    assert bundle["recipe"] == found["recipe"]
    teacher = load_source("file", {"path": str(tmp_path / "b")})
    assert teacher and teacher.spec and teacher.spec.sigma_min == 0.002
