"""Changes the versions of a running service without losing a request."""

import time
from dataclasses import replace
from typing import Any

from ray.serve.exceptions import RayServeException

from msd_ray.errors import UserError
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.serving.serve_apps import deploy
from msd_ray.serving.serve_apps.version_registry import PERIOD, registry_handle
from msd_ray.serving.service.config import Placement, ServeConfig, parse_config
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.versions import Traffic, Version


class Operation:
    """Operations on the service on the connected cluster. Run one at a time, since each reads the traffic before it
    changes it."""

    def update(self, uri: str, name: str = "", weight: float = 1.0) -> Traffic:
        """Starts the students of an ensemble that do not run yet, gives it `weight` (0 to 1) of the traffic, and ends
        the students of versions that are no longer kept. The others share the rest of the traffic as before.

        Returns the new traffic. Raises UserError if nothing is served, the name is taken or the new students do not
        start, CorruptError if the ensemble is damaged; the service then goes on as it was.
        """
        traffic, config, placement = self.current()
        version = describe(ensemble_folder(uri).uri, name)
        _refuse_other_content(traffic, version)
        try:
            deploy.deploy_students(version, config, placement)
        except UserError:
            deploy.remove_students(traffic)
            raise
        return self._change(traffic.with_version(version, weight).kept(config.keep), config, placement)

    def roll_back(self, name: str = "") -> Traffic:
        """Gives all traffic to a kept version: the one of that name, or else the version other than the newest that
        has, or had last, the most traffic.

        Returns the new traffic. Raises UserError if there is none.
        """
        traffic, config, placement = self.current()
        before = traffic.version(name) if name else traffic.before
        if before is None:
            kept = ", ".join(version.name for version in traffic.versions)
            raise UserError(f"no version {name or 'before this one'} to go back to; there is {kept}")
        return self._change(traffic.with_version(before, 1.0), config, placement)

    def current(self) -> tuple[Traffic, ServeConfig, Placement]:
        """Traffic, configuration, and where students are. Raises UserError if nothing is served."""
        try:
            said: dict[str, Any] = registry_handle().read.remote().result(timeout_s=30)
        except RayServeException:
            raise UserError("nothing is served on this cluster: start it with `msd-ray serve ENSEMBLE`") from None
        except TimeoutError:
            raise UserError("the service does not answer within 30 s: look at Serve's logs on that cluster") from None
        return Traffic.from_json(said["traffic"]), parse_config(said["config"]), said["placement"]

    def _change(self, traffic: Traffic, config: ServeConfig, placement: Placement) -> Traffic:
        deploy.deploy_registry(traffic, config, placement)
        time.sleep(4 * PERIOD)  # until every gateway knows: one that does not would ask students that have ended
        deploy.remove_students(traffic)
        return traffic


def _refuse_other_content(traffic: Traffic, version: Version) -> None:
    known = traffic.version(version.name)
    if known and replace(known, uri=version.uri) != version:
        raise UserError(f"{version.name} already names another ensemble: choose another --name")
