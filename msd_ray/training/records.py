"""A trainer's log: a file for each segment, beside its checkpoints, so that no file grows with the run."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msd_ray.storage import Store
from msd_ray.training.metrics import Metric

LOG = logging.getLogger(__name__)
FOLDER = "metrics"


@dataclass(frozen=True)
class LoggedSegment:
    """The log of the segment that ended in one checkpoint.

    after: images of the checkpoint before, None for the first. measuring: whether the measurement of the checkpoint has
    begun and not ended. deaths: processes that died in measurements since one last succeeded.
    """

    metrics: Sequence[Metric]
    after: int | None = None
    measuring: bool = False
    deaths: int = 0


class Records:
    """The files metrics/<nimg>.json in a student's directory. Each names the one before, so that segments that were
    lost with a process, and trained again to other images, count once."""

    def __init__(self, student: Store) -> None:
        self._store = student.child(FOLDER)

    def write(self, nimg: int, record: LoggedSegment) -> None:
        """Writes a record. nimg: of the checkpoint. Raises UserError if the store cannot be written to."""
        rows = [[m.stage, m.nimg, m.name, m.value] for m in record.metrics]
        facts = {"after": record.after, "measuring": record.measuring, "deaths": record.deaths, "rows": rows}
        self._store.write(_file(nimg), json.dumps(facts).encode())

    def read(self, nimg: int) -> LoggedSegment | None:
        """The record, None if there is none; a damaged one counts as none, with a warning."""
        try:
            facts: dict[str, Any] = json.loads(self._store.read(_file(nimg)))
            metrics = [Metric(*row) for row in facts["rows"]]
            return LoggedSegment(metrics, facts["after"], facts["measuring"], facts["deaths"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            LOG.warning("skipping %s/%s, which is damaged: %s", self._store.uri, _file(nimg), error)
            return None

    def until(self, nimg: int) -> list[Metric]:
        """The log up to the checkpoint of `nimg` images, oldest first."""
        found: list[LoggedSegment] = []
        at: int | None = nimg
        while at is not None and (record := self.read(at)):
            found.append(record)
            at = record.after if record.after is None or record.after < at else None
        return [metric for record in reversed(found) for metric in record.metrics]


def _file(nimg: int) -> str:
    return f"{nimg:012d}.json"
