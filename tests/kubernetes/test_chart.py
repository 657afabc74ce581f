"""The chart as users install it: rendered by the real helm, held against the real schemas."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from msd_ray.kubernetes.chart import files
from msd_ray.kubernetes.values import ChartValues
from msd_ray.recipes.yaml_files import read_yaml
from msd_ray.serving.service.config import ServeConfig, parse_config

from .custom_kinds import SPECS, VERSIONS, custom_schema
from .rendering import CHART, ROOT, SETS, crd_schema, named_set, pod_specs, refusal, render, run_helm, set_names

SERVING = [name for name in set_names() if "serve:" in (SETS / f"{name}.yaml").read_text()]
KUBERAY = {"RayCluster", "RayJob", "RayService"}


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [found for found in objects if found["kind"] == kind]


def test_the_charts_files_follow_from_the_values() -> None:
    for name, content in files(CHART).items():
        assert (CHART / name).read_text() == content, f"{name} is out of date: run `make chart`"


def test_the_dashboard_is_the_one_in_deploy() -> None:
    assert (CHART / "files/dashboard.json").read_text() == (ROOT / "deploy/grafana/msd_ray.json").read_text()


def test_lint() -> None:
    done = run_helm("lint", "--strict", str(CHART), *named_set("tls"))
    assert done.returncode == 0, done.stdout


def test_every_value_of_the_sets_is_one_of_the_model() -> None:
    for name in set_names():
        said = yaml.safe_load((SETS / f"{name}.yaml").read_text())
        said.get("cluster", {}).get("workers", {}).pop("cpu", None)  # null takes a group away, for helm alone
        ChartValues.model_validate(said)


@pytest.mark.parametrize("name", set_names())
def test_kuberays_objects_are_valid(name: str) -> None:
    objects = render(*named_set(name))
    for found in objects:
        if found["kind"] in KUBERAY:
            jsonschema.Draft7Validator(crd_schema(found["kind"])).validate(found)
        if found["kind"] == "RayCronJob":
            jsonschema.Draft7Validator(custom_schema("RayCronJob")).validate(found)


def test_a_key_that_kuberay_does_not_know_would_be_seen() -> None:
    (job,) = of_kind(render(*named_set("cpu")), "RayJob")
    job["spec"]["backofLimit"] = 1
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.Draft7Validator(crd_schema("RayJob")).validate(job)


def test_objects_of_others_have_the_keys_of_their_public_references() -> None:
    objects = [found for name in set_names() for found in render(*named_set(name)) if found["kind"] in SPECS]
    assert {found["kind"] for found in objects} == set(SPECS), "each kind is in some set"
    for found in objects:
        jsonschema.Draft7Validator(custom_schema(found["kind"])).validate(found)


@pytest.mark.parametrize(
    ("name", "kind", "path", "wrong"),
    [
        ("gateway", "GRPCRoute", ["rules", 0, "matches", 0, "method"], "services"),
        ("gateway", "HTTPRoute", ["rules", 0], "backendRef"),
        ("gateway", "HTTPRoute", ["parentRefs", 0], "nameSpace"),
        ("tls", "Certificate", ["issuerRef"], "Kind"),
        ("tls", "Certificate", [], "dnsnames"),
        ("shared-cluster", "PodMonitor", ["podMetricsEndpoints", 0], "portName"),
        ("sweep", "RayCronJob", [], "cron"),
        ("sweep", "RayCronJob", ["jobTemplate"], "backofLimit"),
    ],
)
def test_a_misspelt_key_of_theirs_would_be_seen(name: str, kind: str, path: list[str | int], wrong: str) -> None:
    (found,) = of_kind(render(*named_set(name)), kind)
    inner: Any = found["spec"]
    for step in path:
        inner = inner[step]
    inner[wrong] = "x"
    with pytest.raises(jsonschema.ValidationError, match=wrong):
        jsonschema.Draft7Validator(custom_schema(kind)).validate(found)


def test_a_gateway_has_names_for_grpc_and_others_for_http() -> None:
    """Of two routes of different kinds with a name in common it takes one only."""
    objects = render(*named_set("gateway"))
    names = [of_kind(objects, kind)[0]["spec"]["hostnames"] for kind in ("GRPCRoute", "HTTPRoute")]
    assert names == [["grpc.example.com"], ["images.example.com"]]
    assert not of_kind(render(*named_set("gateway"), "--set", "serve.route.httpHostnames=null"), "HTTPRoute")


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_own_objects_are_valid(version: str, tmp_path: Path) -> None:
    """All sets in one file: kubernetes-validate takes a second to start."""
    plain = []
    for name in set_names():
        objects = render(*named_set(name))
        assert {found["kind"] for found in objects} <= {*KUBERAY, *VERSIONS, *KNOWN}
        plain += [found for found in objects if found["kind"] in KNOWN]
        plain += [_pod(spec) for found in objects if found["kind"] in KUBERAY for spec in pod_specs(found)]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(plain))
    done = _validate(file, version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr, "a kind was not looked at"


def test_a_pod_that_kubernetes_would_refuse_would_be_seen(tmp_path: Path) -> None:
    spec = pod_specs(render(*named_set("cpu")))[0]
    spec["containers"][0]["resources"]["limit"] = {}
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(_pod(spec)))
    assert _validate(file, "1.31").returncode != 0


KNOWN = {
    "ConfigMap", "Ingress", "NetworkPolicy", "PersistentVolumeClaim", "Pod", "PodDisruptionBudget", "Role",
    "RoleBinding", "Service", "ServiceAccount",
}  # fmt: skip


def _pod(spec: dict[str, Any]) -> dict[str, Any]:
    """KubeRay makes pods of templates; the API server sees these."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def _validate(file: Path, version: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "-k", version, "--strict", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", SERVING)
def test_serves_config_is_one(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    (service,) = of_kind(render(*named_set(name)), "RayService")
    raw = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert set(raw) <= {"proxy_location", "http_options", "controller_options", "applications", "tracing_config"}
    ServeDeploySchema(**raw)
    for app in raw["applications"]:
        assert set(app) <= {"name", "route_prefix", "import_path", "args"}
        if "config" not in app["args"]:
            continue
        gateway = parse_config(app["args"]["config"]).gateway  # refuses unknown keys
        assert (gateway.host, gateway.resource, gateway.cpus) == ("0.0.0.0", "gateway", 0.0)
        (pods,) = [g for g in service["spec"]["rayClusterConfig"]["workerGroupSpecs"] if g["groupName"] == "gateway"]
        assert gateway.replicas == pods["replicas"], "one gateway for each of its pods"
        assert bool(gateway.tls_cert) == (name in ("tls", "mutual-tls"))
        assert bool(gateway.tokens) == (name == "tls")


def test_callers_reach_gateway_pods_alone_and_only_while_their_gateway_answers() -> None:
    objects = render(*named_set("gateway"))
    (service,), (rays,) = of_kind(objects, "Service"), of_kind(objects, "RayService")
    groups = {g["groupName"]: g for g in rays["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    selector, gateway = service["spec"]["selector"], groups.pop("gateway")
    assert _matches(selector, gateway)
    assert not any(_matches(selector, group) for group in groups.values())
    assert not _matches(selector, rays["spec"]["rayClusterConfig"]["headGroupSpec"])
    assert "ray.io/cluster" not in selector, "both clusters answer while one takes over"
    assert json.loads(json.loads(gateway["rayStartParams"]["resources"])) == {"gateway": 1}
    assert gateway["rayStartParams"]["num-cpus"] == "0", "students' replicas have no room there"
    (container,) = gateway["template"]["spec"]["containers"]
    assert container["readinessProbe"]["grpc"] == {"port": 9000}
    assert {p["name"]: p["appProtocol"] for p in service["spec"]["ports"]}["grpc"] == "kubernetes.io/h2c"
    assert rays["spec"]["upgradeStrategy"] == {"type": "NewCluster"}


def _matches(selector: dict[str, str], group: dict[str, Any]) -> bool:
    return selector.items() <= group["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", set_names())
def test_pods_have_the_least_rights(name: str) -> None:
    specs = [spec for found in render(*named_set(name)) for spec in pod_specs(found)]
    assert specs
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0, "a number: Kubernetes cannot tell whose a name is"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert not any("secretKeyRef" in str(env) for env in container.get("env", [])), "tokens come as files"
            assert ":latest" not in container["image"]
            assert ":" in container["image"] or "@sha256:" in container["image"]
        mounted = {mount["mountPath"] for c in spec["containers"] for mount in c["volumeMounts"]}
        assert "/tmp" in mounted, "Ray writes there"


def test_only_the_autoscaler_speaks_to_kubernetes() -> None:
    for name in set_names():
        objects = render(*named_set(name))
        scales = "autoscaling" in (SETS / f"{name}.yaml").read_text()
        assert bool(of_kind(objects, "Role")) == scales
        for found in objects:
            for spec in pod_specs(found):
                head = spec["containers"][0]["name"] == "ray-head"
                assert spec["automountServiceAccountToken"] is (scales and head)


def test_rays_ports_are_closed_to_all_but_the_clusters_pods_and_the_operator() -> None:
    objects = render(*named_set("tls"))
    policies = {found["metadata"]["name"]: found["spec"] for found in of_kind(objects, "NetworkPolicy")}
    cluster, callers = policies["demo-cluster"], policies["demo-callers"]
    assert cluster["podSelector"] == {"matchLabels": {"msd-ray/release": "demo"}}
    own, operator = cluster["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": {"msd-ray/release": "demo"}}}]}
    assert [port["port"] for port in operator["ports"]] == [8265, 8000]
    assert callers["podSelector"]["matchLabels"]["msd-ray/role"] == "gateway"
    (allowed,) = callers["ingress"]
    assert [port["port"] for port in allowed["ports"]] == [9000, 8000]
    assert allowed["from"] == [{"namespaceSelector": {"matchLabels": {"team": "web"}}}]


def test_a_pod_has_time_for_a_checkpoint() -> None:
    (job,) = of_kind(render(*named_set("spot")), "RayJob")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][1:]
    spec = group["template"]["spec"]
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] == 90
    assert int(command[-1]) < 90
    assert spec["tolerations"] == [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_recipe_of_ones_own_goes_along() -> None:
    objects = render(*named_set("s3"))
    (job,) = of_kind(objects, "RayJob")
    assert job["spec"]["entrypoint"] == "msd-ray train /etc/msd-ray/recipe.yaml --run-dir s3://bucket/runs/mine"
    (inputs,) = [found for found in of_kind(objects, "ConfigMap") if found["metadata"]["name"] == "demo-train"]
    assert yaml.safe_load(inputs["data"]["recipe.yaml"]) == {"base": "digits", "partition": {"k": 2}}
    environment = {e["name"]: e.get("value") for e in pod_specs(job)[0]["containers"][0]["env"]}
    assert environment["AWS_ENDPOINT_URL"] == "http://minio.storage:9000"


def test_a_nightly_sweep_has_a_directory_for_each_day() -> None:
    (cron,) = of_kind(render(*named_set("sweep")), "RayCronJob")
    assert cron["spec"]["jobTemplate"]["entrypoint"].endswith("--run-dir s3://bucket/runs/sweep/$(date -u +%F)")
    (job,) = of_kind(render(*named_set("sweep"), "--set", "sweep.schedule="), "RayJob")
    assert job["spec"]["entrypoint"].endswith("--run-dir s3://bucket/runs/sweep"), "which another start resumes"


def test_an_override_is_one_word_whatever_is_in_it() -> None:
    (job,) = of_kind(render(*named_set("cpu"), "--set-json", 'train.overrides=["name=a b\'; rm x"]'), "RayJob")
    assert "'name=a b'\\''; rm x'" in job["spec"]["entrypoint"]


BAD = {
    "train.enabld=true": "enabld",
    "train.backoffLimit=-1": "backoffLimit",
    "train.overrides={no-equals}": "overrides",
    "train.name=Upper_Case": "name",
    "train.recipe.partitoin=2": "partitoin",
    "train.recipe.training.ema.half=2": "half",
    "train.recipe.partition.k=0": "/train/recipe/partition/k",
    "sweep.definition.trils=4": "trils",
    "sweep.recipe.networks=2": "networks",
    "storage.runs=runs": "runs",
    "storage.runs=/home/me/runs": "runs",
    "storage.runs=file:///runs": "runs",
    "storage.cache=/tmp/cache": "cache",
    "storage.volume.size=lots": "size",
    "storage.objectStore.endpoint=minio:9000": "endpoint",
    "image.tag=latest": "tag",
    "image.digest=sha256:12": "digest",
    "image.pullPolicy=Sometimes": "pullPolicy",
    "cluster.rayVersion=two": "rayVersion",
    "cluster.graceSeconds=0": "graceSeconds",
    "cluster.workers.cpu.gpus=-1": "gpus",
    "cluster.workers.cpu.memory=16 GB": "memory",
    "cluster.workers.cpu.maximum=3": "maximum",
    "serve.grpcPort=99999": "grpcPort",
    "serve.upgrade=NewClusterWithIncrementalUpgrade": "upgrade",
    "serve.gateway.replicas=0": "replicas",
    "serve.tls.issuerKind=Any": "issuerKind",
    "sweep.schedule=nightly": "schedule",
    "networkPolicy.enabled=maybe": "enabled",
}


@pytest.mark.parametrize("said", BAD)
def test_a_wrong_value_is_refused_by_its_name(said: str) -> None:
    key, _, value = said.partition("=")
    flag = "--set-string" if value in ("lots", "16 GB", "two", "sha256:12", "maybe") else "--set"
    assert BAD[said] in refusal(flag, f"{key}={value}")


GATEWAY = [*named_set("gateway"), "--set"]


def test_recipes_and_sweeps_are_not_refused() -> None:
    schema = jsonschema.Draft202012Validator(json.loads((CHART / "values.schema.json").read_text()))
    for file in sorted((ROOT / "msd_ray" / "recipes").glob("*.yaml")):
        schema.validate({"train": {"recipe": read_yaml(str(file))}})
    for file in sorted((ROOT / "tune_configs").glob("*.yaml")):
        schema.validate({"sweep": {"definition": read_yaml(str(file))}})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "train.enabled=true"], "storage.runs and storage.cache still say CHANGE-ME"),
        (["--set", "storage.runs=/shared/runs"], "no pod mounts a volume"),
        ([*named_set("gateway"), "--set", "serve.route.parent="], "needs serve.route.parent"),
        ([*GATEWAY, "serve.route.hostnames={images.example.com}"], "is a name of gRPC callers as well"),
        ([*GATEWAY, "serve.route.hostnames={*.example.com}"], "is a name of gRPC callers as well"),
        ([*GATEWAY, "serve.route.hostnames=null"], "a Gateway routes one of the two only: give others"),
        ([*named_set("nginx"), "--set", "serve.ingress.tlsSecret="], "needs serve.ingress.grpcHost"),
        (["-f", str(SETS / "cpu.yaml"), "--set", "serve.enabled=true"], "serve.config is not what"),
        ([*named_set("s3"), "--set", "train.clusterSelector=big"], "name a shipped recipe"),
        ([*named_set("sweep"), "--set", "sweep.definition=null"], "sweep.definition is empty"),
        ([*named_set("mutual-tls"), "--set", "serve.tls.secret="], "serve.tls.clientCa needs a certificate"),
    ],
)
def test_what_cannot_work_together_is_refused_with_what_to_do(words: list[str], says: str) -> None:
    assert says in refusal(*words)


def test_ten_thousand_gpus_and_a_thousand_students_fit_into_etcd(tmp_path: Path) -> None:
    """Pods are KubeRay's: what we make does not grow with them. serveConfigV2 grows with the students."""
    from kubernetes_sizes import LIMIT, version  # of benchmarks/

    from msd_ray.serving.serve_apps.manifest import as_yaml

    (tmp_path / "serve.yaml").write_text(as_yaml(version(1000), ServeConfig()))
    words = ["--set", "cluster.workers.cpu=null", "--set", "cluster.workers.gpu.gpus=8"]
    words += ["--set", "cluster.workers.gpu.max=1250", "--set", "cluster.autoscaling.enabled=true"]
    words += ["--set", "serve.enabled=true", "--set-file", f"serve.config={tmp_path / 'serve.yaml'}"]
    objects = render("-f", str(SETS / "cpu.yaml"), *words)
    sizes = {found["kind"]: len(json.dumps(found)) for found in objects}
    assert 500_000 < sizes.pop("RayService") < LIMIT
    assert max(sizes.values()) < 100_000
