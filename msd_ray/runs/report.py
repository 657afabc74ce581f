"""A run's report, sample sheet and curves."""

import io
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor

from msd_ray.evaluation import Row, Sampler
from msd_ray.evaluation.report import ReportContent, SampleGrids, write_report, write_samples
from msd_ray.partition import Partition
from msd_ray.runs.curves import curves
from msd_ray.runs.directory import folder, has_ensemble
from msd_ray.runs.fitting import teachers_sampling
from msd_ray.runs.plan import Group, Job
from msd_ray.runs.samplers import ensemble_of, ensemble_sampler, teacher_sampler
from msd_ray.runs.setting import Setting
from msd_ray.storage import Store
from msd_ray.training.preview import PREVIEWS, ROWS

SHOWN_PER_CLASS = 12
PREVIEWS_SHOWN = 5


def write_all(setting: Setting, rows: list[Row]) -> list[str]:
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


def _content(setting: Setting, rows: list[Row], logged: pd.DataFrame) -> ReportContent:
    group = setting.plan.groups[0]
    return ReportContent(
        title=f"{setting.recipe.name}: {group.partition.k} students",
        recipe=setting.recipe.to_json(),
        rows=rows,
        curves=logged,
        grids=_grids(setting, group) if has_ensemble(setting.store, group) else None,
        notes=[
            f"FID and its kin use the features of: {setting.features.name}. Reference: the training split.",
            *_relay_notes(setting, group.partition),
        ],
        previews={job.name: pictures for job in group.jobs if (pictures := _previews(setting.store, job))},
        preview_rows=ROWS,
    )


def _previews(store: Store, job: Job) -> list[tuple[int, bytes]]:
    """The first picture of a student and the newest few: images seen, PNG."""
    kept = folder(store, f"{job.directory}/{PREVIEWS}")
    names = sorted(name for name in kept.names() if name.endswith(".png"))
    shown = [*names[:1], *names[1:][-PREVIEWS_SHOWN:]]
    return [(int(name.removesuffix(".png")), kept.read(name)) for name in shown]


def _relay_notes(setting: Setting, partition: Partition) -> list[str]:
    """Who makes what where several students make a sample together."""
    if not partition.borders:
        return []
    noise, n = setting.recipe.noise, partition.intervals
    ends = [f"{sigma:.3g}" for sigma in (noise.sigma_min, *partition.borders, noise.sigma_max)]
    ranges = ", ".join(f"{low} to {high}" for low, high in pairwise(ends))
    return [
        f"{n} students make each sample in turn, in {setting.plan.sampling.nfe} network evaluations. They divide the "
        f"noise levels: {ranges}. Where a class is said to be student i's, these are students {n} i to {n} i + {n - 1}."
    ]


def _grids(setting: Setting, group: Group) -> SampleGrids:
    return SampleGrids(
        teacher=_grid(setting, teacher_sampler(setting, teachers_sampling(setting.recipe))),
        students=_grid(setting, ensemble_sampler(ensemble_of(setting, group))),
        labels=setting.data.labels,
        owners=group.partition.owners,
    )


def _grid(setting: Setting, sample: Sampler) -> Tensor:
    """[classes, SHOWN_PER_CLASS, ...] samples; the same seeds for every class."""
    classes = setting.data.classes
    condition = torch.arange(classes).repeat_interleave(SHOWN_PER_CLASS)
    x = sample(condition, list(range(SHOWN_PER_CLASS)) * classes)
    return x.cpu().reshape(classes, SHOWN_PER_CLASS, *setting.data.shape)
