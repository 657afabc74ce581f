"""A kubeconfig that leads to the API server double, and helm on the path."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .double import Double, api_server
from .rendering import ROOT, helm

sys.path.insert(0, str(ROOT / "benchmarks"))  # kubernetes_sizes has an ensemble of a thousand students


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """The API server that `msd-ray submit` and `deploy` find; quick to give up and to look again."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "helm").symlink_to(Path(helm()).resolve())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("msd_ray.kubernetes.rayjobs.LOOK", 0.05)
    monkeypatch.setattr("msd_ray.kubernetes.rayservices.LOOK", 0.05)
    with api_server() as double:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": double.url}}],
            "users": [{"name": "me", "user": {"token": "abc"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield double
