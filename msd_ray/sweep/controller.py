"""Which trial comes next, and which one goes on: the journal, the searcher and the scheduler of a sweep, in step."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from msd_ray.sweep.definition import Budget
from msd_ray.sweep.early_stopping import EarlyStopping
from msd_ray.sweep.recipe_space import RecipeSpace, said
from msd_ray.sweep.searchers import searching
from msd_ray.sweep.sweep_journal import State, SweepJournal, TrialRecord, report_of
from msd_ray.sweep.trial_metrics import Report


class SweepController:
    """Every decision is written down before anybody acts on it. Searcher and scheduler are told what the journal knows
    already, in the order in which it happened, so they stand where they stood when an earlier driver died. given_up:
    the trials whose process died too often."""

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
        """The trial to run now: one whose process or driver died, else a new one; None where there are no more or the
        budget is spent, though one that runs may come again."""
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
        """How many trials there are in all, if nothing else of the budget is spent before."""
        return self._searching.most

    @property
    def over(self) -> bool:
        """Whether all has been done."""
        return self._exhausted and not self._journal.unfinished

    @property
    def settled(self) -> bool:
        """Whether nothing runs any more, and nothing will."""
        return self._exhausted and len(self._journal.unfinished) == len(self.given_up)

    @property
    def _exhausted(self) -> bool:
        """Whether no further trial begins."""
        spent = _spent(self._recipe_space.definition.budget, self._journal)
        return spent or len(self._journal.records) >= self.most

    def goes_on(self, number: int, sent: dict[str, Any]) -> bool:
        """Whether the trial goes on after what it sent: a report, an `error` that it ended with, or that it `stopped`
        with the sweep, to go on with the next."""
        if self._journal.records[number].state != "running" or "stopped" in sent:
            return False
        if "error" in sent:
            self._journal.fail(number, sent["error"])
            self._searching.ended(number, None)
            self._note(f"trial {number} failed: {sent['error']}")
            return False
        report = report_of(sent)
        if report.images <= self._journal.records[number].images:
            return True  # said before, by a process that died since
        stops = self._early_stopping.stops(number, report)
        state: State = "done" if report.final else "stopped" if stops else "running"
        self._journal.report(number, report, state)
        self._say(number, report, state)
        if state != "running":
            self._searching.ended(number, report)
        return state == "running"

    def died(self, number: int) -> None:
        """The trial's process is gone: it is run again, unless that happened too often; even then it is unfinished."""
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

    def _say(self, number: int, report: Report, state: State) -> None:
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
