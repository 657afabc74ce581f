"""The results of a sweep: a row per trial and report, the report page, and the ensembles that are kept."""

import io
from dataclasses import asdict

import pandas as pd

from msd_ray.runs.teacher_cache import copy_teacher
from msd_ray.storage import Store
from msd_ray.sweep.pareto import pareto_front
from msd_ray.sweep.recipe_space import RecipeSpace
from msd_ray.sweep.sweep_directory import prune, trial_store
from msd_ray.sweep.sweep_journal import SweepJournal, TrialRecord
from msd_ray.sweep.sweep_page import Page, render
from msd_ray.teachers.kept_teacher import has_teacher

TABLE, PAGE = "sweep.parquet", "report.html"


def table(records: list[TrialRecord]) -> pd.DataFrame:
    """A row per trial and report, with the trial's choices as columns; a single row for a trial without a report.
    A dimension's labels are text unless all have one type."""
    rows = [
        {"trial": r.number, **r.choice, "state": r.state, "reason": r.reason, "kept": r.kept, **said}
        for r in records
        for said in ([asdict(report) for report in r.reports] or [{}])
    ]
    found = pd.DataFrame(rows)
    for column in found.columns:
        if found[column].map(type).nunique() > 1 and found[column].dtype == object:
            found[column] = found[column].map(lambda value: None if value is None else str(value))
    return found


def conclude(store: Store, recipe_space: RecipeSpace, journal: SweepJournal, over: bool) -> None:
    """Writes the table and the page. over: whether no trial is left. Then shared checkpoints are deleted, and the kept
    trials get the teacher, which makes them complete run directories."""
    if not journal.records:
        return
    if over:
        prune(store, recipe_space.definition, journal)
        store.delete("shared")
        for record in journal.records:
            _complete(store, record)
    buffer = io.BytesIO()
    table(journal.records).to_parquet(buffer, index=False)
    store.write(TABLE, buffer.getvalue())
    store.write(PAGE, render(_page(store, recipe_space, journal.records)).encode())


def _complete(store: Store, record: TrialRecord) -> None:
    run = trial_store(store, record)
    if not (record.result and record.kept):
        return
    if store.exists("teacher.json"):  # the recipe brings the teacher
        run.write("teacher.json", store.read("teacher.json"))
    elif not has_teacher(run.child("teacher")):
        copy_teacher(store.child("teacher"), run.child("teacher"))


def _page(store: Store, recipe_space: RecipeSpace, records: list[TrialRecord]) -> Page:
    pictures = {r.number: _picture(trial_store(store, r)) for r in records if r.reports}
    on_it = pareto_front(records, recipe_space.definition.metrics)
    dimensions = [dimension.name for dimension in recipe_space.space]
    return Page(recipe_space.definition, dimensions, records, {r.number for r in on_it}, pictures)


def _picture(run: Store) -> bytes:
    try:
        return run.read("samples.png")
    except FileNotFoundError:
        return b""
