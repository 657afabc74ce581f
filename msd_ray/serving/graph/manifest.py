"""A service as a config file for `serve deploy`, and so for KubeRay's RayService."""

from typing import Any

from msd_ray.serving.core.catalogue import Traffic, Version
from msd_ray.serving.core.config import ServeConfig
from msd_ray.serving.graph import apps
from msd_ray.serving.graph.names import FRONT

BUILDERS = "msd_ray.serving.graph.apps"


def manifest(version: Version, config: ServeConfig) -> dict[str, Any]:
    """Plain data in the form of Serve's ServeDeploySchema. Placement `auto` means `dedicated` here, as nothing can be
    measured; the certificates are for the gRPC port alone."""
    multiplexed, traffic = config.students.placement == "multiplexed", Traffic((version,), (1.0,))
    said = apps.student_args(version, config, multiplexed) | apps.service_args(traffic, config, multiplexed)
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.front.host, "port": config.front.http_port},
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
