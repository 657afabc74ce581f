"""The table of a run: measured once, then kept beside the run."""

import json
from collections.abc import Callable

import pandas as pd

from msd_ray.data import load_data
from msd_ray.ensemble import ONE_STEP, Ensemble, Sampling, read_description
from msd_ray.errors import UserError
from msd_ray.evaluation import (
    Costs,
    Judge,
    Row,
    from_records,
    held_out_row,
    load_features,
    sampler_row,
    student_rows,
    to_records,
)
from msd_ray.recipes import parse_recipe
from msd_ray.recipes.load import with_overrides
from msd_ray.runs.costs import ensemble_costs, student_costs, teacher_costs
from msd_ray.runs.curves import curves
from msd_ray.runs.directory import folder, has_ensemble, refuse_unfinished
from msd_ray.runs.fitting import teachers_sampling
from msd_ray.runs.plan import Group
from msd_ray.runs.report import write_all
from msd_ray.runs.room import check_run_dir
from msd_ray.runs.samplers import device_here, ensemble_of, ensemble_sampler, teacher_sampler
from msd_ray.runs.setting import Setting
from msd_ray.runs.teacher import default_cache
from msd_ray.storage import Store, read_manifest

Note = Callable[[str], None]


def evaluate_once(setting: Setting, note: Note) -> list[Row]:
    """The table of a finished run; measured and written with the report unless that was done already."""
    key = _key(setting)
    rows = _known_rows(setting.store, key)
    if rows is None or not setting.store.exists("report.html"):
        rows = measure(setting, note)
        write_all(setting, rows)
        content = json.dumps({"key": key, "rows": to_records(rows)}, indent=1)
        setting.store.write("evaluation.json", content.encode())
    return rows


def _known_rows(store: Store, key: str) -> list[Row] | None:
    """The rows measured earlier for `key`; a file that cannot be read counts as none."""
    try:
        known = json.loads(store.read("evaluation.json"))
        return from_records(known["rows"]) if known["key"] == key else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def measure(setting: Setting, note: Note) -> list[Row]:
    """Held-out data, the teacher, the ensemble, its students, and the baselines where they were trained."""
    recipe, plan, data = setting.recipe, setting.plan, setting.data
    judge = Judge(setting.features, data.train, recipe.evaluation)
    note(f"evaluating on {recipe.evaluation.samples} samples each ({setting.features.name} features)")
    logged = curves(setting.store, plan)
    rows = [held_out_row(judge, data), *_teacher_rows(setting, judge)]
    for group in plan.groups:
        made = _group_rows(setting, judge, group, logged)
        note(f"{group.name}: fid@{made[0].scores.n} {made[0].scores.fid:.3g}")
        rows += made
    return rows


def _teacher_rows(setting: Setting, judge: Judge) -> list[Row]:
    """The teacher as the recipe has it, and as an ensemble of several steps is asked where that is something else."""
    ways = {"teacher": teachers_sampling(setting.recipe)}
    for group in setting.plan.groups:
        way = read_description(folder(setting.store, group.directory)).sampling
        if way not in (ONE_STEP, *ways.values()):
            ways[f"teacher, {way.steps} steps of {way.kind}"] = way
    return [_teacher_row(setting, judge, name, way) for name, way in ways.items()]


def _teacher_row(setting: Setting, judge: Judge, name: str, sampling: Sampling) -> Row:
    sample, costs = teacher_sampler(setting, sampling), teacher_costs(setting, sampling)
    row, _ = sampler_row(name, judge, sample, range(setting.data.classes), costs)
    return row


def _group_rows(setting: Setting, judge: Judge, group: Group, logged: pd.DataFrame) -> list[Row]:
    """The ensemble's row; its students' too, where it is the conditions alone that tell them apart."""
    ensemble, data = ensemble_of(setting, group), setting.data
    sample, costs = ensemble_sampler(ensemble), ensemble_costs(group, ensemble, logged)
    row, samples = sampler_row(group.name, judge, sample, range(data.classes), costs)
    if group.partition.k == 1 or group.partition.borders:
        return [row]
    each = {job.spec.index: student_costs(ensemble, job.name, job.spec.index, logged) for job in group.jobs}
    return [row, *student_rows(judge, samples, group.partition.owners, data.labels, each)]


def evaluate_uri(uri: str, overrides: list[str], note: Note) -> list[Row]:
    """The table of a run directory, or of a bare ensemble. Raises UserError where `uri` is neither."""
    store = Store(uri)
    for override in overrides:
        if not override.startswith("evaluation."):
            raise UserError(f"{override}: only keys under evaluation. can be changed here; others take a new run")
    if store.exists("recipe.json"):
        setting = Setting.of_run(store, overrides)
        refuse_unfinished(store, setting.plan.groups)
        return measure(setting, note)
    ensemble = Ensemble.load(store, device_here())
    recipe = parse_recipe(with_overrides(dict(ensemble.recipe), overrides), imports=False)
    data = load_data(recipe.data)
    judge = Judge(load_features(recipe.evaluation.features, data, default_cache()), data.train, recipe.evaluation)
    costs = Costs(ensemble.parameters, ensemble.nfe)
    row, _ = sampler_row("ensemble", judge, ensemble_sampler(ensemble), range(data.classes), costs)
    return [held_out_row(judge, data), row]


def report_uri(uri: str, note: Note) -> list[str]:
    """Writes the report of a run directory again. Raises UserError where it is none."""
    setting = Setting.of_run(Store(uri), [])
    check_run_dir(setting.store)
    finished = all(has_ensemble(setting.store, group) for group in setting.plan.groups)
    if not finished:
        note("the run is not finished: the report shows its curves so far")
        return write_all(setting, [])
    return write_all(setting, evaluate_once(setting, note))


def _key(setting: Setting) -> str:
    """Changes with whatever the results depend on: the evaluation's settings and the ensembles' weights."""
    manifests = [read_manifest(folder(setting.store, group.directory)) for group in setting.plan.groups]
    files = [{name: entry.sha256 for name, entry in m.files.items()} for m in manifests]
    return json.dumps([setting.recipe.to_json()["evaluation"], files], sort_keys=True)
