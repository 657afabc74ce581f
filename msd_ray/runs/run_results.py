"""The table of a run: measured once, then kept beside the run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import Tensor

from msd_ray.data import load_data
from msd_ray.ensemble import ONE_STEP, Description, Sampling, read_description
from msd_ray.errors import CorruptError, UserError
from msd_ray.evaluation import Costs, Row, from_records, to_records
from msd_ray.evaluation.reference import write_reference
from msd_ray.recipes import Recipe, load_recipe, parse_recipe
from msd_ray.recipes.load import with_overrides
from msd_ray.runs.compatibility import teachers_sampling
from msd_ray.runs.costs import ensemble_costs, student_costs, teacher_costs
from msd_ray.runs.curves import curves
from msd_ray.runs.disk_needs import check_cache, check_run_dir
from msd_ray.runs.evaluation_pieces import Complete
from msd_ray.runs.plan import EnsemblePlan
from msd_ray.runs.rows import VERSION, Drawing, RequestedRow, ScoreTable, flattered, measure, spaces
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import folder, has_ensemble, refuse_other_source, refuse_unfinished
from msd_ray.runs.run_report import write_all
from msd_ray.runs.sample_sources import FromPart, FromTeacher
from msd_ray.runs.teacher_cache import teacher_in
from msd_ray.storage import Store, check_sizes, default_cache, digest, read_manifest

Note = Callable[[str], None]


def evaluate_once(context: RunContext, complete: Complete, note: Note) -> list[Row]:
    """The table of a finished run; measured and written with the report unless that was done already."""
    key = _key(context)
    rows = known_rows(context.store, key)
    if rows is None or not context.store.exists("report.html"):
        drawings = _drawings(context)
        rows = measured_rows(context, complete, note, drawings)
        write_all(context, rows, _drawn(drawings))
        content = json.dumps({"key": key, "rows": to_records(rows)}, indent=1)
        context.store.write("evaluation.json", content.encode())
    return rows


def known_rows(store: Store, key: str | None = None) -> list[Row] | None:
    """The rows measured earlier, for `key` if one is given; a file that cannot be read counts as none."""
    try:
        known = json.loads(store.read("evaluation.json"))
        return from_records(known["rows"]) if key in (None, known["key"]) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def measured_rows(context: RunContext, complete: Complete, note: Note, drawings: tuple[Drawing, ...] = ()) -> list[Row]:
    """Held-out data, the teacher, the ensemble, its students, and the baselines where they were trained.

    drawings: samples to be made on the way.
    """
    table, logged = ScoreTable(context.recipe, context.cache), curves(context.store, context.plan)
    asked = [table.held_out(), *_teacher_rows(context, table)]
    for ensemble in context.plan.ensembles:
        asked += _ensemble_rows(context, table, ensemble, logged)
    return _measured(context.recipe, context.cache, asked, drawings, complete, note)


def _measured(
    recipe: Recipe,
    cache: Store,
    asked: list[RequestedRow],
    drawings: tuple[Drawing, ...],
    complete: Complete,
    note: Note,
) -> list[Row]:
    shape = load_data(recipe.data).shape
    if any(row.missing for row in asked):
        features = " and ".join(spaces(recipe, shape))
        check_cache(cache)
        note(f"evaluating on {recipe.evaluation.samples} samples each ({features} features)")
    measure(asked, drawings, complete)
    remark = flattered(recipe, shape)
    return [replace(row.row(), remark=remark) for row in asked]


def _teacher_rows(context: RunContext, table: ScoreTable) -> list[RequestedRow]:
    """The teacher as the recipe has it, and as an ensemble that has a sampler is asked where that is something else."""
    ways = {"teacher": teachers_sampling(context.recipe)}
    for ensemble in context.plan.ensembles:
        way = read_description(folder(context.store, ensemble.directory)).sampling
        if way != ONE_STEP and not way.levels and way not in ways.values():
            ways[f"teacher, {way.steps} steps of {way.kind}"] = way
    return [table.teacher(name, _teacher(context, way), teacher_costs(context, way)) for name, way in ways.items()]


def _teacher(context: RunContext, sampling: Sampling) -> FromTeacher:
    """Raises UserError where the run has none, or the recipe brings another than its students learnt from."""
    refuse_other_source(context.store, context.plan)
    teacher = teacher_in(context.store, context.plan)
    try:
        return FromTeacher(teacher, teacher.fingerprint, sampling, context.conditions.n, context.recipe.conditions)
    except FileNotFoundError:
        raise UserError(f"{context.store.uri} holds no teacher: `msd-ray train` it again") from None


def _ensemble_rows(
    context: RunContext, table: ScoreTable, ensemble: EnsemblePlan, logged: pd.DataFrame
) -> list[RequestedRow]:
    """The ensemble's row; its students' too, where it is the conditions alone that tell them apart."""
    known = read_description(folder(context.store, ensemble.directory))
    parts = parts_of(known)
    row = table.ensemble(ensemble.name, parts, ensemble_costs(ensemble, known.sampling, logged))
    if ensemble.partition.k == 1 or ensemble.partition.borders:
        return [row]
    each = [student_costs(student, known.sampling, logged) for student in ensemble.students]
    return [row, *(table.student(ensemble.name, part, each[part.part]) for part in parts)]


def parts_of(known: Description) -> list[FromPart]:
    """The parts of an ensemble, as what samples are made by."""
    body, partition = known.manifest.body, known.partition
    files = [entry.sha256 for entry in known.manifest.files.values()]
    weights = digest([files, body.get("students"), partition.to_json(), known.sampling.to_json()])
    return [FromPart(known.store.uri, weights, part) for part in range(partition.parts)]


def _drawings(context: RunContext) -> tuple[Drawing, Drawing]:
    """The teacher's samples and the ensemble's that a report shows."""
    table, teacher = ScoreTable(context.recipe, context.cache), _teacher(context, teachers_sampling(context.recipe))
    ensemble = context.plan.ensembles[0]
    parts = parts_of(read_description(folder(context.store, ensemble.directory)))
    return table.drawing([teacher]), table.drawing(parts)


def _drawn(drawings: tuple[Drawing, Drawing]) -> tuple[Tensor, Tensor] | None:
    teacher, students = (drawing.kept() for drawing in drawings)
    return None if teacher is None or students is None else (teacher, students)


def evaluate_uri(uri: str, overrides: list[str], complete: Complete, note: Note) -> list[Row]:
    """The table of a run directory, or of a bare ensemble. Raises UserError where `uri` is neither."""
    store = Store(uri)
    for override in overrides:
        if not override.startswith("evaluation."):
            raise UserError(f"{override}: only keys under evaluation. can be changed here; others take a new run")
    if store.exists("recipe.json"):
        context = RunContext.of_run(store, overrides)
        refuse_unfinished(store, context.plan.ensembles)
        return measured_rows(context, complete, note)
    known = read_description(store)
    check_sizes(store, known.manifest)
    recipe = parse_recipe(with_overrides(dict(known.recipe), overrides), imports=False)
    cache = default_cache()
    table = ScoreTable(recipe, cache)
    asked = [table.held_out(), table.ensemble("ensemble", parts_of(known), _bare_costs(known))]
    return _measured(recipe, cache, asked, (), complete, note)


def make_reference(recipe: str, overrides: list[str], output: Path, complete: Complete) -> str:
    """Writes the reference statistics of a recipe's training data, in its first features, and says what they are of."""
    loaded, cache = load_recipe(recipe, overrides), default_cache()
    chunk = ScoreTable(replace(loaded, evaluation=replace(loaded.evaluation, also=(), reference="")), cache).whole()
    if not chunk.measured():
        complete([chunk])
    moments, features = chunk.measured()[0].moments, spaces(loaded, load_data(loaded.data).shape)[0]
    write_reference(Store(str(output.absolute().parent)), output.name, moments)
    return f"{output}: {features}, {len(moments.mean)} features of {moments.n} images"


def _bare_costs(known: Description) -> Costs:
    try:
        parameters = sum(int(student["parameters"]) for student in known.manifest.body["students"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"the manifest of the ensemble at {known.store.uri} makes no sense: {error}") from error
    return Costs(parameters, known.sampling.nfe)


def report_uri(uri: str, complete: Complete, note: Note) -> list[str]:
    """Writes the report of a run directory again. Raises UserError where it is none."""
    context = RunContext.of_run(Store(uri), [])
    check_run_dir(context.store)
    finished = all(has_ensemble(context.store, ensemble) for ensemble in context.plan.ensembles)
    if not finished:
        note("the run is not finished: the report shows its curves so far")
        return write_all(context, [], None)
    rows, drawings = evaluate_once(context, complete, note), _drawings(context)
    measure([], drawings, complete)
    return write_all(context, rows, _drawn(drawings))


def _key(context: RunContext) -> str:
    """Changes with whatever the results depend on: the evaluation's settings and the ensembles' weights."""
    manifests = [read_manifest(folder(context.store, ensemble.directory)) for ensemble in context.plan.ensembles]
    files = [{name: entry.sha256 for name, entry in m.files.items()} for m in manifests]
    said = {key: value for key, value in context.recipe.to_json()["evaluation"].items() if key not in ("cpus", "gpus")}
    return json.dumps([VERSION, said, files], sort_keys=True)
