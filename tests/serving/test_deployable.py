"""services/ensemble is the deployable: a contract, a Serve entry, a config that stands for all that the chart gets."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

from msd_ray.serving.generated import ensemble_pb2
from msd_ray.serving.service.config import Placement, load_config
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.versions import Traffic

from .ensembles import saved

FOLDER = Path(__file__).parents[2] / "services" / "ensemble"


def test_the_config_is_what_serve_config_writes(tmp_path: Path) -> None:
    from msd_ray.serving.serve_apps.manifest import as_yaml

    uri = saved(tmp_path / "ensemble", k=2)
    made = as_yaml(describe(uri), load_config(None)).replace(uri, "s3://bucket/ensemble")
    assert _numbered(made) == _numbered((FOLDER / "serve.yaml").read_text())


def _numbered(text: str) -> str:
    """Hashes as numbers in the order in which they appear: another machine may draw other weights."""
    known: dict[str, str] = {}
    return re.sub(r"\b[0-9a-f]{12,64}\b", lambda found: known.setdefault(found[0], f"#{len(known)}"), text)


def test_the_entries_are_there_and_described() -> None:
    said = yaml.safe_load((FOLDER / "serve.yaml").read_text())
    about = (FOLDER / "README.md").read_text()
    for entry in {app["import_path"] for app in said["applications"]}:
        module, _, name = entry.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert f"`{module}:{name}`" in about


def test_the_description_names_every_call_of_the_contract() -> None:
    (service,) = ensemble_pb2.DESCRIPTOR.services_by_name.values()
    about = (FOLDER / "README.md").read_text()
    assert service.full_name in about
    assert [method.name for method in service.methods if f"`{method.name}`" not in about] == []


@pytest.mark.parametrize("placement", ["dedicated", "multiplexed"])
def test_replicas_may_import_what_this_process_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placement: Placement
) -> None:
    from msd_ray.serving.serve_apps import apps

    version, config = describe(saved(tmp_path, k=1)), load_config(None)
    given = apps.student_args(version, config, placement)
    assert all("environment" not in args for _, args in given.values())
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "mine, other")
    for build, args in apps.student_args(version, config, placement).values():
        deployment = getattr(apps, build)(args)._bound_deployment
        assert deployment.ray_actor_options["runtime_env"]["env_vars"]["MSD_RAY_OWN_CODE"] == "mine, other"


def test_gateways_with_students_of_their_own_have_their_share_too(tmp_path: Path) -> None:
    from msd_ray.serving.serve_apps import apps
    from msd_ray.serving.serve_apps.app_names import GATEWAY

    version, config = describe(saved(tmp_path, k=2)), load_config(None, ["students.cpus=2", "students.gpus=1"])
    traffic = Traffic((version,), (1.0,))

    def resources(placement: Placement) -> dict[str, float]:
        _, args = apps.service_args(traffic, config, placement)[GATEWAY]
        options = apps.gateway(args)._bound_deployment.ray_actor_options
        return {name: options[name] for name in ("num_cpus", "num_gpus")}

    assert apps.student_args(version, config, "gateway") == {}
    assert resources("gateway") == {"num_cpus": 2.1, "num_gpus": 1}
    assert resources("dedicated") == {"num_cpus": 0.1, "num_gpus": 0}
