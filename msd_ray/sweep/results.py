"""What a sweep leaves: a row per trial and report, the report page, and the ensembles that stay."""

import io
from dataclasses import asdict

import pandas as pd

from msd_ray.runs.teacher import copy_teacher, has_teacher
from msd_ray.storage import Store
from msd_ray.sweep.directory import trial_store
from msd_ray.sweep.family import Family
from msd_ray.sweep.front import front
from msd_ray.sweep.ledger import Ledger, Record
from msd_ray.sweep.page import Page, render
from msd_ray.sweep.pruning import prune

TABLE, PAGE = "sweep.parquet", "report.html"


def table(records: list[Record]) -> pd.DataFrame:
    """A row per trial and report, with the trial's choices as columns; of a trial without a report a single row.
    Labels of a dimension are kept as they are where all are of one type, as text otherwise."""
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


def conclude(store: Store, family: Family, ledger: Ledger, over: bool) -> None:
    """Writes the table and the page. over: whether no trial is left, so that what was kept for others can go, and the
    ensembles that stay get the teacher, which makes them whole run directories."""
    if not ledger.records:
        return
    if over:
        prune(store, family.definition, ledger)
        store.delete("shared")
        for record in ledger.records:
            _complete(store, record)
    buffer = io.BytesIO()
    table(ledger.records).to_parquet(buffer, index=False)
    store.write(TABLE, buffer.getvalue())
    store.write(PAGE, render(_page(store, family, ledger.records)).encode())


def _complete(store: Store, record: Record) -> None:
    run = trial_store(store, record)
    if record.result and record.kept and not has_teacher(run.child("teacher")):
        copy_teacher(store.child("teacher"), run.child("teacher"))


def _page(store: Store, family: Family, records: list[Record]) -> Page:
    pictures = {r.number: _picture(trial_store(store, r)) for r in records if r.reports}
    on_it = front(records, family.definition.metrics)
    dimensions = [dimension.name for dimension in family.space]
    return Page(family.definition, dimensions, records, {r.number for r in on_it}, pictures)


def _picture(run: Store) -> bytes:
    try:
        return run.read("samples.png")
    except FileNotFoundError:
        return b""
