"""Training runs and sweeps as RayJobs."""

import time
from collections.abc import Callable
from typing import Any

from msd_ray.errors import TrainingError, UserError
from msd_ray.kubernetes.api import Api, Note, Object
from msd_ray.kubernetes.rendering import CONTENT

ENDED = {"Complete", "Failed"}
"""What KubeRay calls a RayJob that will not go on."""
SUBMITTER = "ray-job-submitter"
LOOK = 2.0
"""Seconds between two looks."""


def submit(api: Api, objects: list[Object], force: bool, note: Note) -> str:
    """Applies a release with a RayJob, and returns the job's name. One that runs with the same values is left alone;
    one that ended is replaced, and its command goes on where it stopped.

    Raises UserError where a job of that name runs with other values, or the API server refuses.
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
    """Shows the log of a job, and events about it, until it ends. Raises TrainingError where it fails."""
    seen, told, events = 0, "", set[str]()
    while True:
        job = api.get("RayJob", name)
        if job is None:
            raise UserError(f"there is no job {name} any more")
        if (now := state(job)) != told:
            told = now
            note(f"{name}: {now}")
        for line in new_events(api, name, events):
            note(line)
        seen = _show_log(api, name, seen, show)
        if ended(job):
            break
        sleep(LOOK)
    if job["status"].get("jobDeploymentStatus") == "Failed":
        why = job["status"].get("message") or job["status"].get("reason") or "its log says why"
        raise TrainingError(f"{name} failed: {' '.join(str(why).split())}")


def state(job: Object) -> str:
    """In one word, as KubeRay says it; Waiting before it says anything."""
    status: dict[str, Any] = job.get("status", {})
    return str(status.get("jobDeploymentStatus") or "Waiting")


def ended(job: Object) -> bool:
    return state(job) in ENDED


def new_events(api: Api, name: str, known: set[str]) -> list[str]:
    """Warnings about an object that are not among the known ones yet; those are added."""
    lines = []
    for event in api.find("Event", fields=f"involvedObject.name={name}"):
        line = f"{event.get('reason', '')}: {' '.join(str(event.get('message', '')).split())}"
        if event.get("type") == "Warning" and line not in known:
            known.add(line)
            lines.append(line)
    return lines


def _show_log(api: Api, name: str, seen: int, show: Note) -> int:
    """Shows the lines of the submitter's log beyond the first `seen`; how many there are now."""
    pods = api.find("Pod", selector=f"job-name={name}")
    lines = [line for pod in pods[-1:] for line in api.logs(pod["metadata"]["name"], SUBMITTER, since=7 * 24 * 3600)]
    for line in lines[seen:]:
        show(line)
    return max(seen, len(lines))


def content(found: Object) -> str:
    """By which values an object was made; empty where nobody said."""
    return str(found["metadata"].get("annotations", {}).get(CONTENT, ""))


def _await_gone(api: Api, name: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while api.get("RayJob", name):
        if time.monotonic() > end:
            raise UserError(f"{name} is being deleted for {seconds:g} s: look at its finalizers")
        time.sleep(LOOK / 4)
