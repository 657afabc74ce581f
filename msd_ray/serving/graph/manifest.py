"""A service as a config file for `serve deploy`, and so for KubeRay's RayService."""

import json
from typing import Any

import yaml

from msd_ray.serving.core.catalogue import Traffic, Version
from msd_ray.serving.core.config import ServeConfig
from msd_ray.serving.graph import apps
from msd_ray.serving.graph.names import FRONT
from msd_ray.serving.graph.options import serve_options

BUILDERS = "msd_ray.serving.graph.apps"


def manifest(version: Version, config: ServeConfig) -> dict[str, Any]:
    """Plain data in the form of Serve's ServeDeploySchema. Placement `auto` means `dedicated` here, as nothing can be
    measured."""
    multiplexed, traffic = config.students.placement == "multiplexed", Traffic((version,), (1.0,))
    said = apps.student_args(version, config, multiplexed) | apps.service_args(traffic, config, multiplexed)
    return {
        **serve_options(config),
        "applications": [
            {
                "name": name,
                "route_prefix": "/" if name == FRONT else None,
                "import_path": f"{BUILDERS}:{build}",
                "args": args,
            }
            for name, (build, args) in said.items()
        ],
    }


def as_yaml(version: Version, config: ServeConfig) -> str:
    """The manifest as a file."""
    plain = json.loads(json.dumps(manifest(version, config)))  # tuples are lists in YAML
    return yaml.safe_dump(plain, sort_keys=False)
