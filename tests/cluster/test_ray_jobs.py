"""`msd-ray submit --address`: what is refused before a cluster is asked, each answer of Ray's job API as one line."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from msd_ray import cli
from msd_ray.cluster import ray_jobs
from msd_ray.cluster.ray_jobs import packed

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
PLACE = ["--address", "http://head:8265", "--run-dir", "s3://bucket/runs/tiny"]
TRAIN = ["submit", "train", TINY]
Said = tuple[int, str, str]


@dataclass
class Client:
    """As Ray's JobSubmissionClient. status: of the job that is there; empty for none. refusal: of a
    submission. then: of the one after it."""

    status: str = ""
    code: int | None = 0
    metadata: dict[str, str] = field(default_factory=dict)
    log: list[str | Exception] = field(default_factory=lambda: ["student 0  training\nstudent", " 0  done\n"])
    refusal: str = ""
    then: str = ""
    submitted: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    address: str = ""

    def __call__(self, address: str) -> "Client":
        self.address = os.environ.get("RAY_ADDRESS", address)  # as Ray does it
        return self

    def get_job_status(self, name: str) -> Any:
        if not self.status:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")
        return SimpleNamespace(value=self.status)

    def get_job_info(self, name: str) -> Any:
        status = SimpleNamespace(value=self.status)
        return SimpleNamespace(status=status, metadata=self.metadata, driver_exit_code=self.code, message="node died")

    def delete_job(self, name: str) -> None:
        assert self.status not in ("PENDING", "RUNNING")
        self.status = ""

    def submit_job(self, **said: Any) -> None:
        if self.refusal:
            raise RuntimeError(self.refusal)
        folder = Path(said["runtime_env"]["working_dir"])
        self.files = {file.name: file.read_text() for file in folder.iterdir()}
        assert (Path(said["runtime_env"]["py_modules"][0]) / "cli.py").exists()
        self.submitted.append(said)
        self.status, self.metadata = self.status or "SUCCEEDED", said["metadata"]

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for text in self.log:
            if isinstance(text, Exception):
                raise text
            yield text


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    for name in ("RAY_ADDRESS", "no_proxy", "NO_PROXY"):  # the command sets or forgets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", made)
    monkeypatch.setattr("msd_ray.cluster.ray_jobs.time.sleep", lambda seconds: setattr(made, "refusal", made.then))
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["msd-ray", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_a_job_brings_its_recipe_and_shows_its_log(client: Client, run: Callable[..., Said]) -> None:
    code, out, err = run(*TRAIN, *PLACE, "seed=7")
    assert code == 0, err
    (said,) = client.submitted
    assert said["submission_id"] == "msd-ray-tiny"
    assert said["entrypoint"] == "python -m msd_ray train recipe.yaml --run-dir s3://bucket/runs/tiny"
    recipe = yaml.safe_load(client.files["recipe.yaml"])
    assert (recipe["seed"], recipe["network"]["width"]) == (7, 16)
    assert out.splitlines() == ["student 0  training", "student 0  done"], "a line that came in two pieces is one"
    assert "msd-ray-tiny is submitted to http://head:8265" in err


def test_a_sweep_brings_its_definition_and_its_recipe(client: Client, run: Callable[..., Said], tmp_path: Path) -> None:
    sweep = {"name": "k", "recipe": TINY, "space": {"partition.k": [1, 2]}, "metrics": {"fid": "min"}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert run("submit", "sweep", str(tmp_path / "sweep.yaml"), *PLACE)[0] == 0
    assert client.submitted[0]["submission_id"] == "msd-ray-k"
    assert yaml.safe_load(client.files["sweep.yaml"])["recipe"] == "recipe.yaml"
    assert yaml.safe_load(client.files["recipe.yaml"])["name"] == "tiny"
    sweep["space"] = {"partition.k": []}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    code, _, err = run("submit", "sweep", str(tmp_path / "sweep.yaml"), *PLACE)
    assert (code, err.count("\n")) == (2, 1), "a wrong definition is refused here, not on the cluster"
    assert len(client.submitted) == 1


def test_the_same_command_again(client: Client, run: Callable[..., Said]) -> None:
    run(*TRAIN, *PLACE)
    client.status = "RUNNING"
    code, _, err = run(*TRAIN, *PLACE, "--no-follow")
    assert code == 0
    assert "msd-ray-tiny runs already" in err
    assert len(client.submitted) == 1
    code, _, err = run(*TRAIN, "seed=3", *PLACE, "--no-follow")
    assert code == 2
    assert "msd-ray-tiny runs with other values: stop it (`ray job stop msd-ray-tiny`), or give --name" in err
    client.status = "STOPPED"
    code, _, err = run(*TRAIN, "seed=3", *PLACE)
    assert code == 0
    assert "msd-ray-tiny ended before (STOPPED); it goes on where it stopped" in err
    assert len(client.submitted) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "FAILED", "code": 2, "log": ["error: no room\n"]}, "FAILED with exit code 2: error: no room"),
        ({"status": "FAILED", "code": None, "log": []}, "FAILED: node died"),
        ({"status": "STOPPED", "code": None, "log": ["stopping\n"]}, "STOPPED: stopping"),
    ],
)
def test_a_job_that_fails_is_one_line(
    changes: dict[str, Any], says: str, client: Client, run: Callable[..., Said]
) -> None:
    run(*TRAIN, *PLACE, "--no-follow")
    vars(client).update(changes)
    client.get_job_status = lambda name: SimpleNamespace(value="RUNNING")  # type: ignore[method-assign]
    code, _, err = run(*TRAIN, *PLACE)
    assert code == 1
    assert err.splitlines()[-1] == f"error: msd-ray-tiny ended as {says}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"refusal": "status code 500:\n out of memory"},
            "Ray's job API: status code 500: out of memory",
        ),
        ({"log": ["a line\n", RuntimeError("close code 1006")]}, "the log of msd-ray-tiny broke off, the same command"),
    ],
)
def test_what_rays_api_says_is_one_line(
    changes: dict[str, Any], says: str, client: Client, run: Callable[..., Said]
) -> None:
    vars(client).update(changes)
    code, _, err = run(*TRAIN, *PLACE)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {says}")


def test_a_head_that_has_just_started_is_asked_again(client: Client, run: Callable[..., Said]) -> None:
    client.refusal = "No available agent to submit job, please try again later."
    code, _, err = run(*TRAIN, *PLACE)
    assert code == 0, err
    assert len(client.submitted) == 1


def test_the_address_that_is_given_counts(
    client: Client, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    assert run(*TRAIN, *PLACE)[0] == 0
    assert client.address == "http://head:8265"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            [*TRAIN, "--address", "http://head:8265"],
            "say where the run lives, on storage that all nodes see: --run-dir",
        ),
        ([*TRAIN, *PLACE[:2], "--run-dir", "runs/tiny"], "--run-dir runs/tiny is relative to a folder that goes"),
        ([*TRAIN, *PLACE[2:]], "--run-dir goes with --address; on Kubernetes say --set storage.runs="),
        ([*TRAIN, *PLACE, "--dry-run"], "--address is a Ray cluster without Kubernetes: leave out"),
        ([*TRAIN, *PLACE, "-n", "team"], "--address is a Ray cluster without Kubernetes: leave out"),
        ([*TRAIN, "partition.k=0", *PLACE], "partition.k"),
        (["submit", "sweep", "nowhere.yaml", *PLACE], "no file nowhere.yaml"),
    ],
)
def test_what_is_refused_before_the_cluster_is_asked(
    words: list[str], says: str, client: Client, run: Callable[..., Said]
) -> None:
    code, _, err = run(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert says in err
    assert not client.address


def test_a_package_that_is_too_large_is_not_uploaded(
    client: Client, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(ray_jobs, "LEFT_OUT", ())
    monkeypatch.setattr(
        ray_jobs, "__file__", str(_bulky(Path(os.environ["MSD_RAY_CACHE"])) / "cluster" / "ray_jobs.py")
    )
    code, _, err = run(*TRAIN, *PLACE)
    assert code == 2
    assert "error: the job would bring 3 MiB, Ray takes 1: clean up " in err
    assert not client.submitted


def _bulky(folder: Path) -> Path:
    (folder / "package").mkdir()
    (folder / "package" / "core").write_bytes(bytes(3 << 20))
    return folder / "package"


def test_the_package_is_what_ray_takes_without_what_nobody_needs_there() -> None:
    with packed({"recipe.yaml": "name: x"}) as folder:
        assert (folder / "job" / "recipe.yaml").read_text() == "name: x"
        names = {path.name for path in (folder / "msd_ray").rglob("*")}
        assert {"cli.py", "py.typed"} <= names
        assert not {"__pycache__", "helm"} & names
    assert not folder.exists()


def test_no_dashboard_answers(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    code, _, err = run(*TRAIN, "--address", "http://127.0.0.1:9", *PLACE[2:])
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: no Ray dashboard at http://127.0.0.1:9: ")
