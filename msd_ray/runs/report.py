"""A run's report, sample sheet and curves."""

import io

import pandas as pd
import torch
from torch import Tensor

from msd_ray.evaluation import Row, Sampler
from msd_ray.evaluation.report import ReportContent, SampleGrids, write_report, write_samples
from msd_ray.runs.directory import curves, has_ensemble
from msd_ray.runs.plan import Group
from msd_ray.runs.samplers import ensemble_of, ensemble_sampler, teacher_sampler
from msd_ray.runs.setting import Setting

SHOWN_PER_CLASS = 12


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
        notes=[f"FID and its kin use the features of: {setting.features.name}. Reference: the training split."],
    )


def _grids(setting: Setting, group: Group) -> SampleGrids:
    return SampleGrids(
        teacher=_grid(setting, teacher_sampler(setting)),
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
