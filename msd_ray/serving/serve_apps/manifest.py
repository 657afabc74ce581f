"""A service as a config file for `serve deploy`, and so for KubeRay's RayService."""

import json
from typing import Any

import yaml

from msd_ray.serving.serve_apps import apps
from msd_ray.serving.serve_apps.app_names import GATEWAY
from msd_ray.serving.serve_apps.serve_options import serve_options
from msd_ray.serving.service.config import Placement, ServeConfig
from msd_ray.serving.service.versions import Traffic, Version

BUILDERS = "msd_ray.serving.serve_apps.apps"


def manifest(version: Version, config: ServeConfig) -> dict[str, Any]:
    """The service as plain data of Serve's ServeDeploySchema. Placement `auto` means `dedicated` here, since the
    cluster is not known."""
    said = config.students.placement
    placement: Placement = "dedicated" if said == "auto" else said
    traffic = Traffic((version,), (1.0,))
    built = apps.student_args(version, config, placement) | apps.service_args(traffic, config, placement)
    return {
        **serve_options(config),
        "applications": [
            {
                "name": name,
                "route_prefix": "/" if name == GATEWAY else None,
                "import_path": f"{BUILDERS}:{build}",
                "args": args,
            }
            for name, (build, args) in built.items()
        ],
    }


def as_yaml(version: Version, config: ServeConfig) -> str:
    """The manifest as YAML."""
    plain = json.loads(json.dumps(manifest(version, config)))  # tuples are lists in YAML
    return yaml.safe_dump(plain, sort_keys=False)
