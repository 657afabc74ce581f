"""Rendering the chart with the real helm, and holding what comes out against the schemas."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "msd-ray"
SETS = Path(__file__).with_name("sets")
CRDS = ROOT.parent / "shared" / "reference" / "kuberay"


def helm() -> str:
    """The binary of `make build/helm`, or the one on the path; skips the test where there is none."""
    own = ROOT / "build" / "helm"
    found = os.environ.get("HELM") or (str(own) if own.exists() else shutil.which("helm"))
    if not found:
        pytest.skip("no helm: run `make build/helm`")
    return found


def run_helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *words], capture_output=True, text=True, check=False, timeout=60)


def render(*words: str, release: str = "demo") -> list[dict[str, Any]]:
    """The objects of a release."""
    done = run_helm("template", release, str(CHART), "--namespace", "team", *words)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def refusal(*words: str) -> str:
    """What helm says where it refuses."""
    done = run_helm("template", "demo", str(CHART), *words)
    assert done.returncode != 0, "it was not refused"
    return done.stderr


def named_set(name: str) -> list[str]:
    """A value set of tests/kubernetes/sets as helm's arguments."""
    return ["-f", str(SETS / f"{name}.yaml"), "--set-file", f"serve.config={ROOT / 'services/ensemble/serve.yaml'}"]


def set_names() -> list[str]:
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def pod_specs(found: Any) -> list[dict[str, Any]]:
    """Every pod spec in an object, however deep."""
    if isinstance(found, list):
        return [spec for each in found for spec in pod_specs(each)]
    if not isinstance(found, dict):
        return []
    own = [found] if "containers" in found and isinstance(found["containers"], list) else []
    return own + [spec for each in found.values() for spec in pod_specs(each)]


def crd_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a KubeRay object, unknown keys refused; skips the test where the definitions are not there."""
    if not CRDS.is_dir():
        pytest.skip("KubeRay's resource definitions are not beside this checkout")
    text = (CRDS / f"ray.io_{kind.lower()}s.yaml").read_text()
    versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1"]
    return _strict(json.loads(json.dumps(schema)))


def _strict(schema: Any) -> Any:
    """A structural schema as JSON schema: unknown keys refused, keys with a default not required."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(made.get("properties"), dict):
        properties = made["properties"]
        made["properties"] = {key: _strict(value) for key, value in properties.items()}
        known = schema.get("x-kubernetes-preserve-unknown-fields")
        if not known and "additionalProperties" not in made:
            made["additionalProperties"] = False
        required = [key for key in made.get("required", []) if "default" not in properties.get(key, {})]
        made.pop("required", None)
        if required:
            made["required"] = required
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = _strict(made[key])
    return made
