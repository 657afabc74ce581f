"""Decides which trial begins next and which goes on, from a sweep's journal, searcher and scheduler."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from msd_ray.sweep.definition import Budget
from msd_ray.sweep.early_stopping import EarlyStopping
from msd_ray.sweep.recipe_space import RecipeSpace, said
from msd_ray.sweep.searchers import searching
from msd_ray.sweep.sweep_journal import SweepJournal, TrialRecord, TrialState, report_of
from msd_ray.sweep.trial_metrics import Report


class SweepController:
    """Writes every decision to the journal before it is acted upon. It first replays the journal, in its order, to
    searcher and scheduler, so that their state is what it was when an earlier driver died. given_up: the trials whose
    process died too often."""

    def __init__(self, recipe_space: RecipeSpace, journal: SweepJournal, note: Callable[[str], None]) -> None:
        self._recipe_space, self._journal, self._note = recipe_space, journal, note
        self.given_up: list[int] = []
        self._deaths = Counter[int]()
        self._searching, self._early_stopping = (
            searching(recipe_space),
            EarlyStopping(recipe_space.definition.scheduler),
        )
        for event in journal.history:
            self._recall(event)
        self._unfinished = journal.unfinished

    def next(self) -> TrialRecord | None:
        """The trial to run now: one whose process or driver died, else a new one. None if there are no more or the
        budget is spent; a trial that runs now may still have to be run again."""
        if self._unfinished:
            record = self._unfinished.pop(0)
            self._note(f"trial {record.number} goes on: {said(record.choice)}")
            return record
        if self._exhausted:
            return None
        number = len(self._journal.records)
        self._early_stopping.begin(number)
        record = self._journal.open(self._searching.choose(number))
        self._note(f"trial {number} begins: {said(record.choice)}")
        return record

    @property
    def most(self) -> int:
        """How many trials there are in all, if no other budget is spent before."""
        return self._searching.most

    @property
    def over(self) -> bool:
        """Whether the sweep is finished."""
        return self._exhausted and not self._journal.unfinished

    @property
    def settled(self) -> bool:
        """Whether no trial runs, and none will begin."""
        return self._exhausted and len(self._journal.unfinished) == len(self.given_up)

    @property
    def _exhausted(self) -> bool:
        """Whether no further trial begins."""
        spent = _spent(self._recipe_space.definition.budget, self._journal)
        return spent or len(self._journal.records) >= self.most

    def goes_on(self, number: int, sent: dict[str, Any]) -> bool:
        """Whether the trial goes on after its message: a report, an `error` that ended it, or `stopped`, with which it
        ends now and goes on with the next sweep."""
        if self._journal.records[number].state != "running" or "stopped" in sent:
            return False
        if "error" in sent:
            self._journal.fail(number, sent["error"])
            self._searching.ended(number, None)
            self._note(f"trial {number} failed: {sent['error']}")
            return False
        report = report_of(sent)
        if report.images <= self._journal.records[number].images:
            return True  # a process that has died since reported it before
        stops = self._early_stopping.stops(number, report)
        state: TrialState = "done" if report.final else "stopped" if stops else "running"
        self._journal.report(number, report, state)
        self._say(number, report, state)
        if state != "running":
            self._searching.ended(number, report)
        return state == "running"

    def died(self, number: int) -> None:
        """The trial's process died: the trial is run again, unless that happened too often. Then it stays
        unfinished."""
        self._deaths[number] += 1
        if self._deaths[number] <= self._recipe_space.definition.trials.max_failures:
            self._unfinished.append(self._journal.records[number])
            return
        self.given_up.append(number)
        self._note(f"trial {number}: its process died too often; the same command tries it again")

    def _recall(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "trial":
                self._searching.choose(event["trial"])
                self._early_stopping.begin(event["trial"])
            case "report":
                self._early_stopping.stops(event["trial"], report_of(event))
                if event["state"] != "running":
                    self._searching.ended(event["trial"], report_of(event))
            case "failed":
                self._searching.ended(event["trial"], None)

    def _say(self, number: int, report: Report, state: TrialState) -> None:
        quality = "-" if report.fid is None else f"{report.fid:.3g}"
        self._note(
            f"trial {number}: {report.images / 1000:g} kimg, fid@{report.samples} {quality}, "
            f"{report.latency_ms:.3g} ms, {report.cpu_seconds:.0f} CPU s{'' if state == 'running' else f', {state}'}"
        )


def _spent(budget: Budget, journal: SweepJournal) -> bool:
    used = [
        (budget.trials, len(journal.records)),
        (budget.images, journal.total_images),
        (budget.gpu_hours, journal.gpu_hours),
        (budget.hours, journal.hours),
    ]
    return any(most is not None and amount >= most for most, amount in used)
