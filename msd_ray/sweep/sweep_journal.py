"""The events of a sweep. They are its whole state: when the command is given again, they are replayed in the same order
to searcher and scheduler."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from msd_ray.errors import CorruptError
from msd_ray.runs.journal import Journal, read_journal
from msd_ray.storage import Store
from msd_ray.sweep.search_space import Choice
from msd_ray.sweep.trial_metrics import Report

NAME = "journal.jsonl"
TrialState = Literal["running", "done", "stopped", "failed"]


@dataclass
class TrialRecord:
    """A trial. reports: in order. reason: why it failed. kept: whether its ensemble still exists."""

    number: int
    choice: Choice
    reports: list[Report] = field(default_factory=list)
    state: TrialState = "running"
    reason: str = ""
    kept: bool = True

    @property
    def result(self) -> Report | None:
        """The last report of a trial that was trained to its end or stopped early; None for any other."""
        return self.reports[-1] if self.reports and self.state in ("done", "stopped") else None

    @property
    def images(self) -> int:
        """Images per student at the last report."""
        return self.reports[-1].images if self.reports else 0


class SweepJournal:
    """The records of all trials, by number, and the journal that they follow from. guard: called before each write; it
    raises if another process drives the sweep now."""

    def __init__(self, store: Store) -> None:
        """Raises CorruptError if no sweep can have written this journal."""
        self.guard: Callable[[], None] = lambda: None
        self._journal = Journal(store, NAME)
        self.history = read_journal(store, NAME)
        self.records: list[TrialRecord] = []
        try:
            for event in self.history:
                self._apply(event)
            self._seconds = sum(_sessions(self.history))
        except (KeyError, IndexError, TypeError) as error:
            raise CorruptError(
                f"{store.uri}/{NAME} is damaged ({type(error).__name__}: {error}); restore it from a copy, or "
                f"delete it and run the sweep again"
            ) from None
        self._began = time.time()

    @property
    def hours(self) -> float:
        """Hours elapsed in all starts of the command."""
        return (self._seconds + time.time() - self._began) / 3600

    @property
    def total_images(self) -> int:
        return sum(r.reports[-1].total_images for r in self.records if r.reports)

    @property
    def gpu_hours(self) -> float:
        return sum(r.reports[-1].gpu_seconds for r in self.records if r.reports) / 3600

    @property
    def unfinished(self) -> list[TrialRecord]:
        return [r for r in self.records if r.state == "running"]

    def begin(self) -> None:
        self._add("begin")

    def open(self, choice: Choice) -> TrialRecord:
        """A new trial."""
        self._add("trial", trial=len(self.records), choice=choice)
        return self.records[-1]

    def report(self, number: int, report: Report, state: TrialState) -> None:
        """state: of the trial after it."""
        self._add("report", trial=number, state=state, report=asdict(report))

    def fail(self, number: int, reason: str) -> None:
        self._add("failed", trial=number, reason=reason)

    def prune(self, number: int) -> None:
        self._add("pruned", trial=number)

    def _add(self, kind: str, **facts: Any) -> None:
        self.guard()
        self._apply({"event": kind, **facts})
        self._journal.add(kind, **facts)
        self._journal.write()

    def _apply(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "trial":
                self.records.append(TrialRecord(event["trial"], event["choice"]))
            case "report":
                self.records[event["trial"]].reports.append(report_of(event))
                self.records[event["trial"]].state = event["state"]
            case "failed":
                self.records[event["trial"]].state = "failed"
                self.records[event["trial"]].reason = event["reason"]
            case "pruned":
                self.records[event["trial"]].kept = False


def report_of(event: dict[str, Any]) -> Report:
    """The report in an event of the journal, or in a trial's message."""
    said = event.get("report", event)
    return Report(**{f.name: said[f.name] for f in fields(Report)})


def _sessions(history: list[dict[str, Any]]) -> Iterator[float]:
    """Seconds from each start of the command to its last event."""
    begun = last = None
    for event in history:
        if event["event"] == "begin" and begun is not None:
            yield last - begun
        if event["event"] == "begin":
            begun = event["time"]
        last = event["time"]
    if begun is not None and last is not None:
        yield last - begun
