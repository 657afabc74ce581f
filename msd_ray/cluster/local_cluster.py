"""A Ray cluster on this machine for one command. It listens on 127.0.0.1 only, and leaves nothing behind.

As `connect`, this module imports ray inside its functions only.
"""

import ipaddress
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msd_ray.cluster import cleanup
from msd_ray.errors import UserError, one_line

PREFIX = "ray-"
LONGEST = 26
"""Bytes of the name of a folder in which Ray can make its own, with sockets in them: their names may have 107."""


@contextmanager
def local_cluster(dashboard: bool) -> Iterator[None]:
    """Starts the cluster. Raises UserError if that fails, or if other machines could connect to it."""
    import ray

    with _own_folder() as folder:
        try:
            with _environment("RAY_TMPDIR", folder):
                _start(dashboard)
            _refuse_if_others_can_connect()
            yield
        finally:
            ray.shutdown()


def _start(dashboard: bool) -> None:
    import ray

    try:
        ray.init(address="local", include_dashboard=dashboard, logging_level=logging.ERROR)
    except Exception as error:  # a plain one where it takes too long
        raise UserError(f"no local Ray cluster could be started: {one_line(error)}") from None


@contextmanager
def _own_folder() -> Iterator[str]:
    """A new folder for Ray. When this block or this process ends, even by kill -9, all processes that have files in the
    folder are killed, and it is removed."""
    folder = _short_folder()
    command = [sys.executable, "-I", "-S", cleanup.__file__, folder]
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=quiet, stderr=quiet, start_new_session=True):
        yield folder  # the block's end closes the pipe, and waits


def _short_folder() -> str:
    """A new folder in the first suitable place for temporary files. Raises UserError if there is none."""
    places = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]
    for place in map(os.path.realpath, filter(None, places)):
        if len(os.fsencode(place)) <= LONGEST:
            with suppress(OSError):
                return tempfile.mkdtemp(prefix=PREFIX, dir=place)
    raise UserError(
        f"Ray needs a folder whose name has at most {LONGEST} bytes, and neither RAY_TMPDIR nor TMPDIR nor /tmp is one "
        f"that can be written to: set RAY_TMPDIR"
    )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _refuse_if_others_can_connect() -> None:
    if found := sorted(_open_to_others()):
        raise UserError(
            f"the local Ray cluster did not stay on 127.0.0.1, so it was ended: {', '.join(found)} could be connected "
            f"to; start one yourself with `ray start --head` and give its --address"
        )


def _open_to_others() -> Iterator[str]:
    """The ports of this process and its children that are open on more than the loopback interface."""
    import psutil

    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and not _is_loopback(connection.laddr.ip):
                    yield f"{process.name()} at {connection.laddr.ip}:{connection.laddr.port}"


def _is_loopback(ip: str) -> bool:
    return ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback
