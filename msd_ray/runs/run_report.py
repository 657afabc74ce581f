"""A run's report, sample sheet and curves."""

import io
from itertools import pairwise

import pandas as pd
from torch import Tensor

from msd_ray.codecs import pictures
from msd_ray.conditions import Partition, short
from msd_ray.evaluation import Row
from msd_ray.evaluation.run_page import ReportContent, SampleGrids, write_report, write_samples
from msd_ray.runs.broken_images import broken_images
from msd_ray.runs.curves import curves
from msd_ray.runs.plan import StudentPlan
from msd_ray.runs.plan_description import students_of
from msd_ray.runs.rows import shown, spaces
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import folder
from msd_ray.storage import Store
from msd_ray.training.metrics import BROKEN_IMAGE
from msd_ray.training.preview import PREVIEWS, ROWS

PREVIEWS_SHOWN = 5


def write_all(context: RunContext, rows: list[Row], drawn: tuple[Tensor, Tensor] | None) -> list[str]:
    """Writes report.html, samples.png and metrics.parquet; returns where they are. drawn: samples of the teacher and of
    the ensemble, [shown classes, n, ...]; None where there is no ensemble yet."""
    store, plan = context.store, context.plan
    logged = curves(store, plan)
    logged = logged[logged["name"] != BROKEN_IMAGE]
    buffer = io.BytesIO()
    logged.to_parquet(buffer, index=False)
    store.write("metrics.parquet", buffer.getvalue())
    content = _content(context, rows, logged, drawn)
    write_report(store, content)
    written = ["metrics.parquet", "report.html"]
    if content.grids is not None:
        write_samples(store, content.grids)
        written.append("samples.png")
    return [f"{store.uri}/{name}" for name in written]


def _content(
    context: RunContext, rows: list[Row], logged: pd.DataFrame, drawn: tuple[Tensor, Tensor] | None
) -> ReportContent:
    ensemble = context.plan.ensembles[0]
    every = (*ensemble.trunks, *ensemble.students)
    features = " and ".join(spaces(context.recipe, context.data.shape))
    return ReportContent(
        title=f"{context.recipe.name}: {ensemble.partition.k} students",
        recipe=context.recipe.to_json(),
        rows=rows,
        curves=logged,
        grids=_grids(context, *drawn) if drawn else None,
        notes=[
            f"FID and its kin use the features of: {features}. Reference: the training split.",
            *_relay_notes(context, ensemble.partition),
            *filter(None, [broken_images(context)]),
        ],
        previews={student.name: found for student in every if (found := _previews(context.store, student))},
        preview_rows=ROWS,
        tree=students_of(context.plan, [ensemble]) if ensemble.trunks else [],
    )


def _grids(context: RunContext, teacher: Tensor, students: Tensor) -> SampleGrids:
    """The samples as they look."""
    codec, ids = context.codec, shown(context.conditions.n, context.recipe.evaluation.samples)
    labels = list(map(short, context.conditions.labels(ids)))
    everyone = context.plan.ensembles[0].partition.router.owners
    owners = [everyone[i] for i in ids]
    of_points = codec.picture_shape(context.data.shape) is None
    return SampleGrids(pictures(codec, teacher), pictures(codec, students), labels, owners, of_points)


def _previews(store: Store, student: StudentPlan) -> list[tuple[int, bytes]]:
    """The first picture of a student and the newest few: images seen, PNG."""
    kept = folder(store, f"{student.directory}/{PREVIEWS}")
    names = sorted(name for name in kept.names() if name.endswith(".png"))
    shown = [*names[:1], *names[1:][-PREVIEWS_SHOWN:]]
    return [(int(name.removesuffix(".png")), kept.read(name)) for name in shown]


def _relay_notes(context: RunContext, partition: Partition) -> list[str]:
    """Who makes what where several students make a sample together."""
    if not partition.borders:
        return []
    noise, n = context.recipe.noise, partition.intervals
    ends = [f"{sigma:.3g}" for sigma in (noise.sigma_min, *partition.borders, noise.sigma_max)]
    ranges = ", ".join(f"{low} to {high}" for low, high in pairwise(ends))
    return [
        f"{n} students make each sample in turn, in {context.plan.sampling.nfe} network evaluations. They divide the "
        f"noise levels: {ranges}. Where a class is said to be student i's, these are students {n} i to {n} i + {n - 1}."
    ]
