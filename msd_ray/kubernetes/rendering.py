"""The objects of a release, from the chart's values: helm renders them, as for `helm install`."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from msd_ray.errors import UserError
from msd_ray.kubernetes.api import Object
from msd_ray.kubernetes.values import ChartValues
from msd_ray.recipes.load import with_overrides
from msd_ray.recipes.yaml_files import read_yaml
from msd_ray.validation import made_of

CONTENT = "msd-ray/content"
"""The annotation with the hash of the values of an object."""
_WHERE = r"^.*(execution error at \(\S+\)|error calling fail): |^Error: "
"""Helm's own text before the chart's message."""


def read_values(file: str | None, overrides: list[str]) -> dict[str, Any]:
    """Values of the chart from a YAML file and KEY=VALUE. Raises UserError if either is wrong."""
    return with_overrides(read_yaml(file) if file else {}, overrides)


def render(release: str, namespace: str, values: dict[str, Any]) -> list[Object]:
    """All objects of the release except those of `helm test`, each annotated with a hash of them all.

    Raises UserError if a value is wrong, or helm is not installed.
    """
    try:
        made_of(ChartValues, values)
    except ValueError as error:
        raise UserError(f"chart values: {error}") from None
    made = [found for found in yaml.safe_load_all(_helm(release, namespace, values)) if found]
    kept = [found for found in made if "helm.sh/hook" not in found["metadata"].get("annotations", {})]
    content = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
    for found in kept:
        found["metadata"].setdefault("annotations", {})[CONTENT] = content
        found["metadata"]["namespace"] = namespace
    return kept


def chart() -> Path:
    """The chart that came with the package."""
    return Path(__file__).with_name("helm")


def _helm(release: str, namespace: str, values: dict[str, Any]) -> str:
    binary = shutil.which("helm")
    if not binary:
        raise UserError("helm is not installed, and it makes the objects: install it, any version from 3.14 on")
    command = [binary, "template", release, str(chart()), "--namespace", namespace, "-f", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise UserError(f"chart values: {_reason(done.stderr)}")
    return done.stdout


def _reason(said: str) -> str:
    """The chart's own part of helm's message, without helm's advice to use another option."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Use --debug")]
    return re.sub(_WHERE, "", lines[-1]) if lines else "helm gives no reason"
