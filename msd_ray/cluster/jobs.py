"""Training runs and sweeps through Ray's job API, on a cluster without Kubernetes. What a job needs of us it brings:
this package, and the recipe."""

import asyncio
import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from msd_ray.errors import MsdRayError, TrainingError, UserError
from msd_ray.recipes import Recipe, load_recipe
from msd_ray.recipes.plain import read_yaml

Note = Callable[[str], None]
MOST_BYTES = 100 << 20
"""Ray refuses larger packages."""
LEFT_OUT = ("__pycache__", "*.pyc", "helm")


def submit_training(
    address: str, recipe: str, overrides: list[str], run_dir: str, name: str, follow: bool, show: Note, note: Note
) -> None:
    """`msd-ray train` as a job. A job of this name that runs is followed; one that ended begins again and resumes.

    Raises UserError where the recipe or the address is wrong, TrainingError where the job fails.
    """
    loaded = load_recipe(recipe, overrides)
    said = {"recipe.yaml": _as_yaml(loaded)}
    _submit(address, name or loaded.name, f"train recipe.yaml {_placed(run_dir)}", said, follow, show, note)


def submit_sweep(address: str, file: str, run_dir: str, name: str, follow: bool, show: Note, note: Note) -> None:
    """`msd-ray sweep` as a job; as `submit_training`. The definition and its recipe, if that is a file, go along."""
    raw, said = read_yaml(file), {}
    if Path(str(raw.get("recipe", ""))).is_file():
        said["recipe.yaml"] = _as_yaml(load_recipe(raw["recipe"]))
        raw["recipe"] = "recipe.yaml"
    said["sweep.yaml"] = yaml.safe_dump(raw)
    _submit(address, name or Path(file).stem, f"sweep sweep.yaml {_placed(run_dir)}", said, follow, show, note)


def _submit(address: str, name: str, words: str, files: dict[str, str], follow: bool, show: Note, note: Note) -> None:
    client, job = _client(address), f"msd-ray-{name}"
    known = _status(client, job)
    if known in ("PENDING", "RUNNING"):
        note(f"{job} runs already")
    else:
        if known:
            note(f"{job} ended before ({known}); it goes on where it stopped")
            client.delete_job(job)
        with packed(files) as folder:
            environment = {"working_dir": str(folder / "job"), "py_modules": [str(folder / "msd_ray")]}
            entrypoint = f"python -m msd_ray {words}"
            client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=environment)
        note(f"{job} is submitted to {address}")
    if follow:
        _follow(client, job, show)


@contextmanager
def packed(files: dict[str, str]) -> Iterator[Path]:
    """A folder with `job`, which holds the files, and `msd_ray`, this package. Raises UserError where that is more than
    Ray takes."""
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


def _follow(client: Any, job: str, show: Note) -> None:
    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            for line in text.splitlines():
                show(line)

    asyncio.run(tail())
    status = _status(client, job)
    if status != "SUCCEEDED":
        raise TrainingError(f"{job} ended as {status}: {_line(client.get_job_info(job).message)}")


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # whatever its transport raises
        raise MsdRayError(f"no Ray dashboard at {address}: {_line(error)}") from None


def _status(client: Any, job: str) -> str:
    """Empty where there is no such job."""
    try:
        return str(client.get_job_status(job).value)
    except RuntimeError as error:
        if "does not exist" in str(error):
            return ""
        raise MsdRayError(f"Ray's job API: {_line(error)}") from None


def _placed(run_dir: str) -> str:
    if not run_dir:
        raise UserError("say where the run lives, on storage that all nodes see: --run-dir s3://bucket/runs/mine")
    return f"--run-dir {shlex.quote(run_dir)}"


def _as_yaml(recipe: Recipe) -> str:
    """The recipe as a file; YAML has no tuples."""
    return yaml.safe_dump(json.loads(json.dumps(recipe.to_json())))


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
