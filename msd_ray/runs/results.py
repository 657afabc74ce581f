"""The results of a run: its table, report, sample sheet and curves."""

import io
import json
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from msd_ray.data import load_data
from msd_ray.diffusion import heun, nfe_of_heun
from msd_ray.ensemble import Ensemble, seeded_noise
from msd_ray.errors import UserError
from msd_ray.evaluation import (
    Costs,
    Judge,
    Row,
    Sampler,
    from_records,
    held_out_row,
    load_features,
    sampler_row,
    student_rows,
    to_records,
)
from msd_ray.evaluation.report import ReportContent, SampleGrids, write_report, write_samples
from msd_ray.recipes import parse_recipe
from msd_ray.recipes.load import with_overrides
from msd_ray.runs.directory import curves, folder, has_ensemble
from msd_ray.runs.plan import Group
from msd_ray.runs.setting import Setting
from msd_ray.runs.teacher import default_cache, kept_facts, load_teacher
from msd_ray.storage import Store, read_manifest

SHOWN_PER_CLASS = 12
Note = Callable[[str], None]


def evaluate_once(setting: Setting, note: Note) -> list[Row]:
    """The table of a finished run; measured and written with the report unless that was done already."""
    key = _key(setting)
    if setting.store.exists("evaluation.json") and setting.store.exists("report.html"):
        known = json.loads(setting.store.read("evaluation.json"))
        if known["key"] == key:
            return from_records(known["rows"])
    rows = measure(setting, note)
    write_all(setting, rows, note)
    content = json.dumps({"key": key, "rows": to_records(rows)}, indent=1)
    setting.store.write("evaluation.json", content.encode())
    return rows


def measure(setting: Setting, note: Note) -> list[Row]:
    """Held-out data, the teacher, the ensemble, its students, and the baselines where they were trained."""
    recipe, plan, data = setting.recipe, setting.plan, setting.data
    judge = Judge(setting.features, data.train, recipe.evaluation)
    note(f"evaluating on {recipe.evaluation.samples} samples each ({setting.features.name} features)")
    classes, logged = range(data.classes), curves(setting.store, plan)
    rows = [held_out_row(judge, data)]
    row, _ = sampler_row("teacher", judge, _teacher_sampler(setting), classes, _teacher_costs(setting))
    rows.append(row)
    for group in plan.groups:
        ensemble = _ensemble(setting, group)
        row, samples = sampler_row(group.name, judge, _sampler(ensemble), classes, _costs(group, ensemble, logged))
        rows.append(row)
        if group.partition.k > 1:
            each = {job.spec.index: _student_costs(ensemble, job.name, job.spec.index, logged) for job in group.jobs}
            rows += student_rows(judge, samples, group.partition.owners, data.labels, each)
        note(f"{row.name}: fid@{row.scores.n} {row.scores.fid:.3g}")
    return rows


def write_all(setting: Setting, rows: list[Row], note: Note) -> list[str]:
    """Writes report.html, samples.png and metrics.parquet; returns where they are. Without an ensemble: no samples."""
    store, plan = setting.store, setting.plan
    logged = curves(store, plan)
    buffer = io.BytesIO()
    logged.to_parquet(buffer, index=False)
    store.write("metrics.parquet", buffer.getvalue())
    content = _content(setting, rows, logged)
    write_report(store, content)
    written = ["metrics.parquet", "report.html"]
    if content.grids is not None:
        write_samples(store, content.grids)
        written.append("samples.png")
    return [f"{store.uri}/{name}" for name in written]


def evaluate_uri(uri: str, overrides: list[str], note: Note) -> list[Row]:
    """The table of a run directory, or of a bare ensemble. Raises UserError where `uri` is neither."""
    store = Store(uri)
    for override in overrides:
        if not override.startswith("evaluation."):
            raise UserError(f"{override}: only keys under evaluation. can be changed here; others take a new run")
    if store.exists("recipe.json"):
        setting = Setting.of_run(store, overrides)
        for group in setting.plan.groups:
            if not has_ensemble(store, group):
                raise UserError(
                    f"{store.uri} has no finished {group.name}: run `msd-ray train` with these values first"
                )
        return measure(setting, note)
    ensemble = Ensemble.load(store, device_here())
    recipe = parse_recipe(with_overrides(dict(ensemble.recipe), overrides))
    data = load_data(recipe.data)
    judge = Judge(load_features(recipe.evaluation.features, data, default_cache()), data.train, recipe.evaluation)
    row, _ = sampler_row("ensemble", judge, _sampler(ensemble), range(data.classes), Costs(ensemble.parameters, 1))
    return [held_out_row(judge, data), row]


def report_uri(uri: str, note: Note) -> list[str]:
    """Writes the report of a run directory again. Raises UserError where it is none."""
    setting = Setting.of_run(Store(uri), [])
    finished = all(has_ensemble(setting.store, group) for group in setting.plan.groups)
    if not finished:
        note("the run is not finished: the report shows its curves so far")
        return write_all(setting, [], note)
    return write_all(setting, evaluate_once(setting, note), note)


def _key(setting: Setting) -> str:
    """Changes with whatever the results depend on: the evaluation's settings and the ensembles' weights."""
    manifests = [read_manifest(folder(setting.store, group.directory)) for group in setting.plan.groups]
    files = [{name: entry.sha256 for name, entry in m.files.items()} for m in manifests]
    return json.dumps([setting.recipe.to_json()["evaluation"], files], sort_keys=True)


def _content(setting: Setting, rows: list[Row], logged: pd.DataFrame) -> ReportContent:
    group = setting.plan.groups[0]
    return ReportContent(
        title=f"{setting.recipe.name}: {group.partition.k} students",
        recipe=setting.recipe.to_json(),
        rows=rows,
        curves=logged,
        grids=_grids(setting, group) if has_ensemble(setting.store, group) else None,
        notes=[f"FID and its kin use the features of: {setting.features.name}. Reference: the training split."],
    )


def _grids(setting: Setting, group: Group) -> SampleGrids:
    return SampleGrids(
        teacher=_grid(setting, _teacher_sampler(setting)),
        students=_grid(setting, _sampler(_ensemble(setting, group))),
        labels=setting.data.labels,
        owners=group.partition.owners,
    )


def _grid(setting: Setting, sample: Sampler) -> Tensor:
    """[classes, SHOWN_PER_CLASS, ...] samples; the same seeds for every class."""
    classes = setting.data.classes
    condition = torch.arange(classes).repeat_interleave(SHOWN_PER_CLASS)
    x = sample(condition, list(range(SHOWN_PER_CLASS)) * classes)
    return x.cpu().reshape(classes, SHOWN_PER_CLASS, *setting.data.shape)


def _teacher_sampler(setting: Setting) -> Sampler:
    denoiser = load_teacher(setting.store.child("teacher")).to(device_here())

    def sample(condition: Tensor, seeds: list[int]) -> Tensor:
        z = seeded_noise(seeds, setting.data.shape).to(device_here())
        return heun(denoiser, z, condition.to(device_here()), setting.recipe.noise, setting.recipe.teacher.steps)

    return sample


def _sampler(ensemble: Ensemble) -> Sampler:
    """On a GPU in plain batches; on a CPU so that a sample does not depend on its batch."""
    if ensemble.device.type == "cpu":
        return ensemble.generate
    return lambda condition, seeds: ensemble.generate(condition, seeds, batch=len(seeds))


def _teacher_costs(setting: Setting) -> Costs:
    config, facts = setting.recipe.teacher, kept_facts(setting.store.child("teacher"))
    return Costs(
        parameters=setting.plan.teacher.parameters(),
        nfe=nfe_of_heun(config.steps),
        images=config.images,
        wall_seconds=facts["wall_seconds"],
        cpu_seconds=facts["cpu_seconds"],
    )


def _costs(group: Group, ensemble: Ensemble, logged: pd.DataFrame) -> Costs:
    """Of a whole ensemble: images and CPU of all students together, and the wall time of the one that took longest."""
    each = [_student_costs(ensemble, job.name, job.spec.index, logged) for job in group.jobs]
    return Costs(
        parameters=ensemble.parameters,
        nfe=1,
        images=group.images,
        wall_seconds=max(c.wall_seconds or 0.0 for c in each),
        cpu_seconds=sum(c.cpu_seconds or 0.0 for c in each),
    )


def _student_costs(ensemble: Ensemble, name: str, index: int, logged: pd.DataFrame) -> Costs:
    """CPU seconds include what the student's requests cost the teacher pool."""
    member, mine = ensemble.members[index], logged[logged["student"] == name]
    seconds = mine.groupby("name")["value"].sum()
    return Costs(
        parameters=member.spec.parameters(),
        nfe=1,
        images=member.nimg,
        wall_seconds=float(seconds.get("wall_seconds", 0.0)),
        cpu_seconds=float(seconds.get("cpu_seconds", 0.0) + seconds.get("teacher_cpu_seconds", 0.0)),
    )


def _ensemble(setting: Setting, group: Group) -> Ensemble:
    return Ensemble.load(folder(setting.store, group.directory), device_here())


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
