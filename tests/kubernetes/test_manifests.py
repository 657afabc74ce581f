"""The plain manifests are what the chart renders."""

import importlib.util
import shutil
import subprocess
from types import ModuleType
from typing import Any

import pytest
import yaml

from .rendering import ROOT, helm

TARGET = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.stem for path in (TARGET / "values").glob("*.yaml"))


@pytest.fixture(scope="module")
def manifests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manifests", ROOT / "deploy" / "manifests.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_up_to_date(manifests: ModuleType) -> None:
    for path, content in manifests.files(helm()).items():
        assert (TARGET / path).read_text() == content, f"{path} is out of date: run `make manifests`"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_makes_of_them_what_helm_makes(overlay: str, manifests: ModuleType) -> None:
    kubectl = shutil.which("kubectl") or pytest.skip("no kubectl")
    command = [kubectl, "kustomize", str(TARGET / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made = _by_name(list(yaml.safe_load_all(done.stdout)))
    for name in [name for name in made if name[0].startswith("PersistentVolume")]:
        del made[name]  # of the overlay alone
    assert made == _by_name(manifests.rendered(helm(), overlay))


def _by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(found["kind"], found["metadata"]["name"]): found for found in objects}
