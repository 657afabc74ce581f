"""A thread that writes status and journals of a run: storage may be slow, and the driver must not wait for it."""

import logging
import threading

from msd_ray.errors import UserError
from msd_ray.runs.journal import STUDENTS, Journal
from msd_ray.runs.run_status import RunStatus, write_status
from msd_ray.storage import Store

LOG = logging.getLogger(__name__)
PATIENCE = 30.0
"""Seconds that the end of a run waits for the storage."""


class Writer:
    """Writes the newest status and the new journal entries, however fast they come. If the storage refuses, it only
    warns, since no student needs these files."""

    def __init__(self, store: Store) -> None:
        self.events, self.students = Journal(store, "events.jsonl"), Journal(store.child("logs"), STUDENTS)
        self._store = store
        self._newest: RunStatus | None = None
        self._changed, self._busy = threading.Condition(), False

    def put(self, status: RunStatus) -> None:
        """Writes the status soon, unless a newer one comes before."""
        with self._changed:
            self._newest = status
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="writer", daemon=True).start()

    def wait(self) -> None:
        """Waits until everything is written, or PATIENCE is over."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._busy, PATIENCE):
                LOG.warning("%s does not answer; the run's status is not written", self._store.uri)

    def _work(self) -> None:
        while status := self._next():
            try:
                self.events.write()
                self.students.write()
                write_status(self._store, status)
            except UserError as error:
                LOG.warning("%s", error)

    def _next(self) -> RunStatus | None:
        with self._changed:
            status, self._newest = self._newest, None
            self._busy = status is not None
            self._changed.notify_all()
            return status
