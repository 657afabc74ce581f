"""`msd-ray submit` and `msd-ray deploy` against an API server double: the right requests, and one clear line each."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_ray import cli
from msd_ray.kubernetes.api import Api
from msd_ray.recipes import load_recipe
from msd_ray.sweep.definition import load_definition

from ..serving.ensembles import saved
from .double import Double, Failure, submitter
from .rendering import ROOT

STORAGE = ["--set", "storage.runs=s3://bucket/runs", "--set", "storage.cache=s3://bucket/cache"]
TRAIN = ["submit", "train", "digits", "partition.k=2", *STORAGE]
Said = tuple[int, str, str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """run("submit", ...) gives exit code, standard output and standard error."""

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["msd-ray", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def ensemble(tmp_path: Path) -> str:
    return saved(tmp_path / "runs" / "mine" / "ensemble", k=2)


@pytest.fixture
def remote(ensemble: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, taken for one that pods see."""
    monkeypatch.setattr("msd_ray.kubernetes.release_values._is_shared", lambda uri: True)
    return ensemble


def status(double: Double, kind: str, name: str, **said: Any) -> None:
    """What KubeRay would write."""
    double.objects[kind, name]["status"] = said


def warning(of: str, message: str) -> dict[str, Any]:
    """An event about a pod or another object."""
    said = {"type": "Warning", "reason": "FailedScheduling", "message": message}
    return {"metadata": {"name": "e"}, "involvedObject": {"name": of}, **said}


def followed(double: Double) -> None:
    """Waits until somebody looks for events, as nothing but following does."""
    while ("GET", "/api/v1/namespaces/team/events") not in double.requests:
        time.sleep(0.02)


def deploy(run: Callable[..., Said], ensemble: str, *words: str) -> Said:
    return run("deploy", ensemble, "--name", "digits", *STORAGE, "--wait", "0", *words)


def test_submit_creates_what_a_run_needs_with_the_recipe_in_it(server: Double, run: Callable[..., Said]) -> None:
    code, _, err = run(*TRAIN, "--no-follow")
    assert code == 0, err
    assert "RayJob digits-train: created" in err
    job = server.objects["RayJob", "digits-train"]
    assert job["spec"]["entrypoint"].endswith("--run-dir s3://bucket/runs/digits")
    recipe = yaml.safe_load(server.objects["ConfigMap", "digits-train"]["data"]["recipe.yaml"])
    assert recipe["partition"]["k"] == 2


def test_twice_the_same_changes_nothing(server: Double, run: Callable[..., Said], remote: str) -> None:
    run(*TRAIN, "--no-follow")
    deploy(run, remote)
    before = server.versions
    assert run(*TRAIN, "--no-follow")[0] == 0
    code, _, err = deploy(run, remote)
    assert code == 0
    assert server.versions == before
    assert "created" not in err and "changed" not in err.replace("unchanged", "")


def test_a_run_that_goes_on_with_other_values_is_left_alone(server: Double, run: Callable[..., Said]) -> None:
    run(*TRAIN, "--no-follow")
    status(server, "RayJob", "digits-train", jobDeploymentStatus="Running")
    code, _, err = run(*TRAIN, "seed=5", "--no-follow")
    assert code == 2
    assert "digits-train runs with other values: delete it first" in err


def test_a_run_that_ended_goes_on(server: Double, run: Callable[..., Said]) -> None:
    run(*TRAIN, "--no-follow")
    status(server, "RayJob", "digits-train", jobDeploymentStatus="Failed")
    code, _, err = run(*TRAIN, "--no-follow")
    assert code == 0
    assert "it goes on where it stopped" in err
    assert "status" not in server.objects["RayJob", "digits-train"], "it was made anew"


def test_follow_shows_log_and_warnings_until_the_end(server: Double, run: Callable[..., Said]) -> None:
    run(*TRAIN, "--no-follow")
    server.objects["Pod", "p"] = submitter("p")
    server.objects["Event", "e"] = warning("digits-train-x4k7q-gpu-worker-9bl2c", "no node has a GPU")
    server.objects["Event", "f"] = warning("digits-train-sweep", "of another job")
    server.say("p", "student 0  training")

    def go_on() -> None:
        followed(server)
        server.say("p", "student 0  done")
        status(server, "RayJob", "digits-train", jobDeploymentStatus="Complete")

    threading.Thread(target=go_on).start()
    code, out, err = run(*TRAIN)
    assert code == 0, err
    assert out.splitlines() == ["student 0  training", "student 0  done"]
    assert "FailedScheduling: no node has a GPU" in err
    assert "of another job" not in err


def test_a_run_that_fails_says_why(server: Double, run: Callable[..., Said]) -> None:
    run(*TRAIN, "--no-follow")

    def fail() -> None:
        followed(server)
        status(server, "RayJob", "digits-train", jobDeploymentStatus="Failed", message="student 1: out of memory")

    threading.Thread(target=fail).start()
    code, _, err = run(*TRAIN)
    assert code == 1
    assert err.splitlines()[-1] == "error: digits-train failed: student 1: out of memory"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"jobDeploymentStatus": "ValidationFailed", "message": "no such field"}, "no such field"),
        (
            {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"},
            "somebody stopped it; the same command resumes it",
        ),
    ],
)
def test_what_kuberay_does_not_call_failed(
    said: dict[str, str], why: str, server: Double, run: Callable[..., Said]
) -> None:
    run(*TRAIN, "--no-follow")

    def end() -> None:
        followed(server)
        status(server, "RayJob", "digits-train", **said)

    threading.Thread(target=end).start()
    code, _, err = run(*TRAIN)
    assert code == 1
    assert err.splitlines()[-1] == f"error: digits-train failed: {why}"


def test_a_sweep_goes_along_with_its_recipe(server: Double, run: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: toy2d\nname: own\n")
    sweep = {
        "name": "k",
        "recipe": str(tmp_path / "own.yaml"),
        "space": {"partition.k": [1, 2]},
        "metrics": {"fid": "min"},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    code, _, err = run("submit", "sweep", str(tmp_path / "sweep.yaml"), *STORAGE, "--no-follow")
    assert code == 0, err
    data = server.objects["ConfigMap", "k-sweep"]["data"]
    assert yaml.safe_load(data["sweep.yaml"])["recipe"] == "/etc/msd-ray/recipe.yaml"
    assert yaml.safe_load(data["recipe.yaml"])["name"] == "own"


def test_recipes_and_sweeps_come_out_of_the_chart_as_they_went_in(server: Double, run: Callable[..., Said]) -> None:
    """helm writes large integers as floating point numbers, and small ones in a way that YAML takes for text."""
    numbers = ["seed=12345678901", "teacher.lr=1e-7", "stages.dm.images=12_800_000"]
    _, out, _ = run("submit", "train", "toy2d", *numbers, *STORAGE, "--dry-run")
    assert load_recipe(_written(out, "recipe.yaml")) == load_recipe("toy2d", numbers)
    for definition in sorted((ROOT / "tune_configs").glob("*.yaml")):
        _, out, _ = run("submit", "sweep", str(definition), *STORAGE, "--dry-run")
        assert load_definition(_written(out, "sweep.yaml")) == load_definition(str(definition))


def _written(objects: str, name: str) -> str:
    """The file that a ConfigMap among the objects holds."""
    file = Path(os.environ["MSD_RAY_CACHE"]) / name
    (content,) = [o["data"][name] for o in yaml.safe_load_all(objects) if name in o.get("data", {})]
    file.write_text(content)
    return str(file)


def test_dry_run_prints_yaml_and_asks_nobody(server: Double, run: Callable[..., Said], remote: str) -> None:
    for words in (TRAIN, ["deploy", remote, *STORAGE]):
        code, out, _ = run(*words, "--dry-run")
        assert code == 0
        assert {"RayJob", "RayService"} & {found["kind"] for found in yaml.safe_load_all(out)}
    assert not server.requests


def test_deploy_update_and_roll_back(server: Double, run: Callable[..., Said], remote: str, tmp_path: Path) -> None:
    deploy(run, remote)
    first = server.objects["RayService", "digits"]["spec"]["serveConfigV2"]
    better = saved(tmp_path / "better", k=2, weights=(7, 8))
    code, out, err = deploy(run, better)
    assert code == 0
    assert "RayService digits: changed" in err
    assert out.strip() == "digits-ensemble.team.svc"
    second = server.objects["RayService", "digits"]["spec"]["serveConfigV2"]
    assert second != first
    assert run("deploy", "rollback", "digits", "--wait", "0")[0] == 0
    assert server.objects["RayService", "digits"]["spec"]["serveConfigV2"] == first
    assert run("deploy", "rollback", "digits", "--wait", "0")[0] == 0
    assert server.objects["RayService", "digits"]["spec"]["serveConfigV2"] == second, "and forward again"


def test_nothing_to_roll_back_to(server: Double, run: Callable[..., Said], remote: str) -> None:
    deploy(run, remote)
    code, _, err = run("deploy", "rollback", "digits", "--wait", "0")
    assert (code, err.count("\n")) == (2, 1)
    assert "nothing to go back to" in err


def test_deploy_waits_until_every_application_runs(server: Double, run: Callable[..., Said], remote: str) -> None:
    def kuberay() -> None:
        while ("RayService", "digits") not in server.objects:
            time.sleep(0.05)
        apps = {"msd-ray": {"status": "DEPLOYING", "message": "loading weights"}}
        status(server, "RayService", "digits", pendingServiceStatus={"applicationStatuses": apps})
        time.sleep(0.3)
        apps = {"msd-ray": {"status": "RUNNING"}}
        ready = [{"type": "Ready", "status": "True"}]
        active = {"applicationStatuses": apps}
        status(server, "RayService", "digits", activeServiceStatus=active, conditions=ready, observedGeneration=1)

    threading.Thread(target=kuberay).start()
    code, _, err = run("deploy", remote, "--name", "digits", *STORAGE, "--wait", "30")
    assert code == 0, err
    assert "digits: msd-ray DEPLOYING loading weights" in err
    assert "digits is healthy" in err


def test_a_service_that_does_not_get_healthy_says_what_does_not_run(
    server: Double, run: Callable[..., Said], remote: str
) -> None:
    deploy(run, remote)
    apps = {"msd-ray-part-1": {"status": "DEPLOY_FAILED", "message": "student-0001.safetensors is damaged"}}
    status(server, "RayService", "digits", pendingServiceStatus={"applicationStatuses": apps})
    code, _, err = run("deploy", remote, "--name", "digits", *STORAGE, "--wait", "0.2")
    assert code == 1
    assert "is not healthy after 0.2 s: msd-ray-part-1 DEPLOY_FAILED student-0001.safetensors is damaged" in err


def test_scale(server: Double, run: Callable[..., Said], remote: str) -> None:
    deploy(run, remote)
    assert run("deploy", "scale", "digits", "12")[0] == 0
    groups = server.objects["RayService", "digits"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (groups[0]["replicas"], groups[0]["maxReplicas"]) == (12, 12)
    code, _, err = run("deploy", "scale", "digits", "2", "--group", "gpu")
    assert code == 2
    assert "digits has no workers 'gpu'; there are cpu, gateway" in err


def test_delete_takes_all_of_a_release_and_nothing_else(server: Double, run: Callable[..., Said], remote: str) -> None:
    deploy(run, remote)
    run(*TRAIN, "--no-follow", "--name", "other")
    server.without = {"monitoring.coreos.com", "cert-manager.io", "gateway.networking.k8s.io"}
    assert run("deploy", "delete", "digits", "--yes")[0] == 0
    assert {name for _, name in server.objects} == {"other-train", "other-train-cluster"}
    code, _, err = run("deploy", "delete", "digits", "--yes")
    assert code == 2
    assert "there is no release digits" in err


@pytest.mark.parametrize(("answer", "says"), [("n", "[y/N]"), ("", "error: nobody answers the question: give --yes")])
def test_delete_asks_first(
    answer: str, says: str, server: Double, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*TRAIN, "--no-follow")
    before = dict(server.objects)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    code, _, err = run("submit", "delete", "digits-train")
    assert code == 2
    assert "delete release digits-train in namespace team? [y/N]" in err
    assert says in err.splitlines()[-1]
    assert server.objects == before
    monkeypatch.setattr("sys.stdin", io.StringIO("y"))
    assert run("submit", "delete", "digits-train")[0] == 0
    assert not server.objects


def test_an_ensemble_on_a_local_disk(server: Double, run: Callable[..., Said], ensemble: str, tmp_path: Path) -> None:
    code, _, err = deploy(run, ensemble)
    assert (code, err.count("\n")) == (2, 1)
    assert "is on a disk of this machine, which no pod sees: give --copy-to" in err
    code, _, err = deploy(run, ensemble, "--copy-to", str(tmp_path / "elsewhere"))
    assert code == 2
    assert "no pod sees that either" in err
    assert not server.objects


REFUSALS = [
    (
        Failure("PATCH", "rayjobs", 403, 'rayjobs.ray.io is forbidden: User "me" cannot patch resource "rayjobs"'),
        "you may not patch (and create) rayjobs.ray.io in namespace team: ask for a Role with that",
    ),
    (
        Failure("PATCH", "rayjobs", 403, "exceeded quota: gpus, requested: 8, used: 4, limited: 8"),
        "exceeded quota: gpus, requested: 8, used: 4, limited: 8; ask for a larger quota in team",
    ),
    (
        Failure("PATCH", "rayjobs", 403, 'admission webhook "policy" denied the request: no spot here'),
        'refuses RayJob digits-train: admission webhook "policy" denied the request: no spot here',
    ),
    (
        Failure("PATCH", "rayjobs", 403, 'User "me" cannot create resource "rayjobs" in API group "ray.io"'),
        "you may not create rayjobs.ray.io in namespace team: ask for a Role with that",
    ),
    (Failure("GET", "rayjobs", 401, "Unauthorized"), "the API server does not know you: log in again"),
    (
        Failure("PATCH", "serviceaccounts", 404, 'namespaces "team" not found', details={"name": "team"}),
        "no namespace team, or no ServiceAccount digits-train",
    ),
]


@pytest.mark.parametrize(("failure", "says"), REFUSALS, ids=lambda value: getattr(value, "message", None))
def test_what_the_api_server_refuses(failure: Failure, says: str, server: Double, run: Callable[..., Said]) -> None:
    server.failures = [failure]
    code, _, err = run(*TRAIN, "--no-follow")
    assert code == 2
    assert says in err.splitlines()[-1]


def test_no_kuberay(server: Double, run: Callable[..., Said]) -> None:
    server.without = {"ray.io"}
    code, _, err = run(*TRAIN, "--no-follow")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: this cluster has no rayjobs.ray.io: install the KubeRay operator")


def test_what_somebody_else_owns_is_taken_by_force_alone(server: Double, run: Callable[..., Said], remote: str) -> None:
    deploy(run, remote)
    server.objects["RayService", "digits"]["metadata"]["labels"]["owner"] = "somebody"
    code, _, err = deploy(run, remote)
    assert code == 2
    assert 'conflict with "kubectl": .spec.replicas; --force takes these fields over' in err
    assert deploy(run, remote, "--force")[0] == 0


def test_an_api_server_that_is_away_and_back(server: Double, run: Callable[..., Said]) -> None:
    server.failures = [Failure("PATCH", "rayjobs", 503, "etcd is electing a leader", times=2)]
    code, _, err = run(*TRAIN, "--no-follow")
    assert code == 0
    assert err.count("the API server does not answer; trying again") == 1
    assert ("RayJob", "digits-train") in server.objects


def test_an_api_server_that_stays_away(
    server: Double, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api.__init__, "__defaults__", (0.2,))
    monkeypatch.setattr("kubernetes.config.kube_config.KubeConfigLoader._set_config", _nowhere)
    code, _, err = run(*TRAIN, "--no-follow")
    assert code == 1
    assert "the API server at http://127.0.0.1:9 did not answer for 0.2 s" in err.splitlines()[-1]


def _nowhere(loader: Any, configuration: Any) -> None:
    configuration.host, configuration.retries = "http://127.0.0.1:9", False


def test_no_cluster_at_all(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, server: Double) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere/config")
    code, _, err = run(*TRAIN, "--no-follow")
    assert code == 2
    assert "no Kubernetes cluster is known: set KUBECONFIG, or give --address of a Ray cluster" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "training.enabled=true"], "chart values: unknown key training; did you mean train?"),
        (
            ["--set", "train.backofLimit=1"],
            "chart values: unknown key train.backofLimit; did you mean train.backoffLimit?",
        ),
        (["--set", "storage.runs=/home/me"], "chart values: storage.runs"),
        (["--set", "storage.runs=/shared/runs"], "chart values: storage.runs or storage.cache is a path, but no pod"),
        (["--context", "nowhere"], "no context nowhere in the kubeconfig; there is here"),
        (["--values", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
    ],
)
def test_wrong_words(words: list[str], says: str, server: Double, run: Callable[..., Said]) -> None:
    code, _, err = run(*TRAIN, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
    assert not server.objects


def test_no_secret_is_in_what_is_applied_or_said(server: Double, run: Callable[..., Said], remote: str) -> None:
    _, out, err = deploy(run, remote, "--set", "serve.tokensSecret=tokens")
    assert "abc" not in out + err, "the kubeconfig's token"
    assert not [kind for kind, _ in server.objects if kind == "Secret"]
