"""Training runs and sweeps through Ray's job API, on a cluster without Kubernetes. A job brings this package, the
recipe and the sweep's definition with it."""

import asyncio
import hashlib
import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from msd_ray.errors import MsdRayError, TrainingError, UserError, one_line
from msd_ray.proxies import bypass_proxies

Note = Callable[[str], None]
MOST_BYTES = 100 << 20
"""Ray refuses larger packages."""
PATIENCE = 30.0
"""Seconds in which the head of a cluster that has just started gets ready for jobs."""
LEFT_OUT = ("__pycache__", "*.pyc", "helm")
_CONTENT = "msd-ray-content"
"""The job's metadata that says from which command and files it was made."""


@dataclass(frozen=True)
class Job:
    """name: on the cluster. command: what it runs. files: what lies in its working directory, by name."""

    name: str
    command: str
    files: dict[str, str]

    @property
    def content(self) -> str:
        """A hash of the job's command and files."""
        return hashlib.sha256(json.dumps([self.command, self.files], sort_keys=True).encode()).hexdigest()[:16]


def training_job(name: str, recipe: dict[str, Any], run_dir: str) -> Job:
    """`msd-ray train` of a whole recipe. Raises UserError if the run would be deleted with the job."""
    return Job(f"msd-ray-{name}", _command("train recipe.yaml", run_dir), {"recipe.yaml": yaml.safe_dump(recipe)})


def sweep_job(name: str, definition: dict[str, Any], recipe: dict[str, Any] | None, run_dir: str) -> Job:
    """`msd-ray sweep`. recipe: the one that the definition starts from, unless it is a shipped one. Raises as
    `training_job`."""
    files = {"recipe.yaml": yaml.safe_dump(recipe)} if recipe else {}
    files["sweep.yaml"] = yaml.safe_dump({**definition, "recipe": "recipe.yaml"} if recipe else definition)
    return Job(f"msd-ray-{name}", _command("sweep sweep.yaml", run_dir), files)


def submit(address: str, job: Job, follow: bool, show: Note, note: Note) -> None:
    """Starts a job, unless it runs already; one that ended begins again, and its command resumes. address: of the
    cluster's dashboard, or ray:// of its client server. follow: show its log until it ends.

    Raises UserError if a job of that name runs with other values, TrainingError if it fails, MsdRayError if the cluster
    does not answer or refuses.
    """
    client = _client(address)
    with _one_line("Ray's job API"):
        known = _known(client, job)
        if known in ("PENDING", "RUNNING"):
            if client.get_job_info(job.name).metadata.get(_CONTENT) != job.content:
                raise UserError(
                    f"{job.name} runs with other values: stop it (`ray job stop {job.name}`), or give --name"
                )
            note(f"{job.name} runs already")
        else:
            if known:
                note(f"{job.name} ended before ({known}); it goes on where it stopped")
                client.delete_job(job.name)
            _start(client, job)
            note(f"{job.name} is submitted to {address}")
    if follow:
        _follow(client, job.name, show)


def _start(client: Any, job: Job) -> None:
    end = time.monotonic() + PATIENCE
    with packed(job.files) as folder:
        environment = {"working_dir": str(folder / "job"), "py_modules": [str(folder / "msd_ray")]}
        said = {"entrypoint": job.command, "submission_id": job.name, "metadata": {_CONTENT: job.content}}
        while True:
            try:
                client.submit_job(**said, runtime_env=environment)
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(1)


@contextmanager
def packed(files: dict[str, str]) -> Iterator[Path]:
    """A folder with `job`, which holds the files, and `msd_ray`, this package. Raises UserError if it is larger than
    Ray accepts."""
    with tempfile.TemporaryDirectory(prefix="msd-ray-job-") as made:
        folder = Path(made)
        (folder / "job").mkdir()
        for name, text in files.items():
            (folder / "job" / name).write_text(text)
        own = Path(__file__).parents[1]
        shutil.copytree(own, folder / "msd_ray", ignore=shutil.ignore_patterns(*LEFT_OUT))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            raise UserError(f"the job would bring {size >> 20} MiB, Ray takes {MOST_BYTES >> 20}: clean up {own}")
        yield folder


def _follow(client: Any, name: str, show: Note) -> None:
    last = ""
    with _one_line(f"the log of {name} broke off, the same command follows it again"):
        for line in _lines(client, name):
            show(line)
            last = line.strip() or last
        info = client.get_job_info(name)
    if str(info.status.value) != "SUCCEEDED":
        code = f" with exit code {info.driver_exit_code}" if info.driver_exit_code is not None else ""
        raise TrainingError(f"{name} ended as {info.status.value}{code}: {last or _line(info.message)}")


def _lines(client: Any, name: str) -> Iterator[str]:
    """The lines of a job's log as they are written, until it ends; Ray sends them in pieces that end anywhere."""
    pieces, rest = client.tail_job_logs(name), ""
    with asyncio.Runner() as runner:
        while (piece := runner.run(_next(pieces))) is not None:
            *lines, rest = (rest + piece).split("\n")
            yield from lines
    if rest:
        yield rest


async def _next(pieces: Any) -> str | None:
    return await anext(pieces, None)


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for other in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would rather take these than what it is told
        os.environ.pop(other, None)
    bypass_proxies(*filter(None, [urlsplit(address).hostname]))
    with _one_line(f"no Ray dashboard at {address}"):
        return JobSubmissionClient(address)


def _known(client: Any, job: Job) -> str:
    """The status of a job; empty if there is none of that name."""
    try:
        return str(client.get_job_status(job.name).value)
    except RuntimeError as error:
        if "does not exist" in str(error):
            return ""
        raise


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns all errors of Ray's client and its transport into MsdRayError, whose message begins with `what`."""
    try:
        yield
    except MsdRayError:
        raise
    except Exception as error:
        raise MsdRayError(f"{what}: {_line(error)}") from None


def _command(words: str, run_dir: str) -> str:
    if not run_dir:
        raise UserError("say where the run lives, on storage that all nodes see: --run-dir s3://bucket/runs/mine")
    if not re.match(r"/|[a-z0-9]+://", run_dir):
        raise UserError(
            f"--run-dir {run_dir} is relative to a folder that goes when the job ends: give a URI such as "
            f"s3://bucket/runs/mine, or an absolute path that all nodes see"
        )
    return f"python -m msd_ray {words} --run-dir {shlex.quote(run_dir)}"


def _line(error: object) -> str:
    return one_line(error)[:300]
