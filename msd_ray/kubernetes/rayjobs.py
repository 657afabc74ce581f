"""Training runs and sweeps as RayJobs."""

import re
import time
from collections.abc import Callable
from typing import Any

from msd_ray.errors import TrainingError, UserError
from msd_ray.kubernetes.api import Api, Note, Object
from msd_ray.kubernetes.logs import Tail
from msd_ray.kubernetes.rendering import CONTENT

FAILED = {"Failed", "ValidationFailed"}
ENDED = {"Complete", *FAILED}
"""KubeRay's words for a RayJob that has ended."""
SUBMITTER = "ray-job-submitter"
_DRAWN = "[bcdfghjklmnpqrstvwxz2456789]{5}"
"""What Kubernetes draws for a name: no vowels, so `digits-train` belongs to no service `digits`."""
LOOK = 2.0
"""Seconds between two requests."""


def submit(api: Api, objects: list[Object], force: bool, note: Note) -> str:
    """Applies a release with a RayJob, and returns the job's name. A job that runs with the same values is left as it
    is; one that ended is replaced, and its command resumes.

    Raises UserError if a job of that name runs with other values, or the API server refuses.
    """
    (job,) = [found for found in objects if found["kind"] in ("RayJob", "RayCronJob")]
    name = str(job["metadata"]["name"])
    known = api.get(job["kind"], name)
    if known and job["kind"] == "RayJob":
        if ended(known):
            note(f"{name} ended before ({state(known)}); it goes on where it stopped")
            api.delete("RayJob", name)
            _await_gone(api, name)
        elif content(known) != content(job):
            raise UserError(f"{name} runs with other values: delete it first (`msd-ray submit delete`), or give --name")
    for found in objects:
        note(f"{found['kind']} {found['metadata']['name']}: {api.apply(found, force)}")
    return name


def follow(api: Api, name: str, show: Note, note: Note, sleep: Callable[[float], None] = time.sleep) -> None:
    """Shows the log of a job, and events about it, until it ends. Raises TrainingError if it fails."""
    tail, told, events = Tail(api, f"job-name={name}", SUBMITTER), "", set[str]()
    while True:
        job = api.get("RayJob", name)
        if job is None:
            raise UserError(f"there is no job {name} any more")
        if (now := state(job)) != told:
            told = now
            note(f"{name}: {now}")
        for line in new_events(api, name, events):
            note(line)
        for line in tail.new_lines():
            show(line)
        if ended(job):
            break
        sleep(LOOK)
    if why := failure(job):
        raise TrainingError(f"{name} failed: {why}")


def failure(job: Object) -> str:
    """Why an ended job failed; empty if it did not. KubeRay calls a stopped job complete."""
    status: dict[str, Any] = job.get("status", {})
    if state(job) in FAILED:
        return " ".join(str(status.get("message") or status.get("reason") or "its log says why").split())
    return "somebody stopped it; the same command resumes it" if status.get("jobStatus") == "STOPPED" else ""


def state(job: Object) -> str:
    """The job's state in KubeRay's word; Waiting before it has one."""
    status: dict[str, Any] = job.get("status", {})
    return str(status.get("jobDeploymentStatus") or "Waiting")


def ended(job: Object) -> bool:
    return state(job) in ENDED


def new_events(api: Api, name: str, known: set[str]) -> list[str]:
    """New warnings about an object, its Ray clusters and their pods; they are added to the known ones."""
    own, lines = re.compile(rf"{re.escape(name)}(-{_DRAWN}(-.*)?)?"), []
    for event in api.find("Event", fields="type=Warning"):
        line = f"{event.get('reason', '')}: {' '.join(str(event.get('message', '')).split())}"
        if own.fullmatch(event["involvedObject"]["name"]) and line not in known:
            known.add(line)
            lines.append(line)
    return lines


def content(found: Object) -> str:
    """The hash of the values of an object; empty if it has none."""
    return str(found["metadata"].get("annotations", {}).get(CONTENT, ""))


def _await_gone(api: Api, name: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while api.get("RayJob", name):
        if time.monotonic() > end:
            raise UserError(f"{name} is being deleted for {seconds:g} s: look at its finalizers")
        time.sleep(LOOK / 4)
