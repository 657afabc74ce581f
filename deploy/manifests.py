"""Plain manifests from the chart, for those without Helm: `python deploy/manifests.py HELM` writes deploy/kubernetes.

What all overlays have in common becomes the base; the rest is each overlay's own.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
TARGET = HERE / "kubernetes"
CHART = HERE.parent / "helm" / "msd-ray"
HEADER = "# Made from the chart by `make manifests`.\n"
OF_HELM = ("helm.sh/chart", "app.kubernetes.io/managed-by")
EXTRA = {"kind": ["volume.yaml"]}
"""Files of an overlay that no chart makes."""


def rendered(helm: str, overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay, as helm makes them, without the labels that speak of helm."""
    values = TARGET / "values" / f"{overlay}.yaml"
    command = [helm, "template", "msd-ray", str(CHART), "-f", str(values)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = [found for found in yaml.safe_load_all(text) if found]
    for found in objects:
        for label in OF_HELM:
            found["metadata"]["labels"].pop(label)
    return objects


def files(helm: str) -> dict[str, str]:
    """What stands in deploy/kubernetes, by path."""
    overlays = {path.stem: rendered(helm, path.stem) for path in sorted((TARGET / "values").glob("*.yaml"))}
    first, *others = overlays.values()
    common = [found for found in first if all(found in objects for objects in others)]
    made = {"base/objects.yaml": _objects(common), "base/kustomization.yaml": _kustomization(["objects.yaml"])}
    for overlay, objects in overlays.items():
        own = [found for found in objects if found not in common]
        made[f"overlays/{overlay}/objects.yaml"] = _objects(own)
        resources = ["../../base", "objects.yaml", *EXTRA.get(overlay, [])]
        made[f"overlays/{overlay}/kustomization.yaml"] = _kustomization(resources)
    return made


def _objects(objects: list[dict[str, Any]]) -> str:
    return HEADER + yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True)


def _kustomization(resources: list[str]) -> str:
    said = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    return HEADER + yaml.safe_dump(said, sort_keys=False)


if __name__ == "__main__":
    for path, content in files(sys.argv[1]).items():
        (TARGET / path).parent.mkdir(parents=True, exist_ok=True)
        (TARGET / path).write_text(content)
