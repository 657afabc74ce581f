"""The report: one HTML file with everything in it, which opens without a network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from msd_ray.evaluation.curve_charts import curve_charts
from msd_ray.evaluation.pictures import SampleGrids, scatter, to_png, write_samples
from msd_ray.evaluation.table import Row, remarks, tables
from msd_ray.evaluation.tiles import strip
from msd_ray.storage import Store

__all__ = ["ReportContent", "SampleGrids", "render", "write_report", "write_samples"]


@dataclass(frozen=True)
class ReportContent:
    """What a report shows.

    recipe: resolved, of plain values. curves: columns student, stage, nimg, name, value. grids: None where there are no
    samples to show. notes: paragraphs of plain text. previews: of each student, images seen and a PNG whose rows are
    `preview_rows`. tree: where students branch off from a trunk, facts of each by name, its own first.
    """

    title: str
    recipe: dict[str, Any]
    rows: Sequence[Row]
    curves: pd.DataFrame
    grids: SampleGrids | None = None
    notes: Sequence[str] = ()
    previews: Mapping[str, Sequence[tuple[int, bytes]]] = field(default_factory=dict)
    preview_rows: Sequence[str] = ()
    tree: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class _Strips:
    """One class in the report: pictures of the teacher's and of its student's samples, as data URIs."""

    label: str
    owner: int
    teacher: str
    student: str


def write_report(store: Store, content: ReportContent) -> None:
    """Writes report.html."""
    store.write("report.html", render(content).encode())


def render(content: ReportContent) -> str:
    """The report as HTML."""
    pages = Environment(
        loader=PackageLoader("msd_ray.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    grids = content.grids
    return pages.get_template("report.html.j2").render(
        title=content.title,
        notes=content.notes,
        tables=tables(content.rows),
        remarks=remarks(content.rows),
        classes=_strips(grids) if grids and not grids.of_points else [],
        scatter=_data_uri("image/png", to_png(scatter(grids))) if grids and grids.of_points else "",
        charts={name: _data_uri("image/svg+xml", svg) for name, svg in curve_charts(content.curves).items()},
        previews={
            student: [(f"{nimg:,} images", _data_uri("image/png", png)) for nimg, png in pictures]
            for student, pictures in content.previews.items()
        },
        preview_rows=", ".join(content.preview_rows),
        tree=content.tree,
        recipe=yaml.safe_dump(content.recipe, sort_keys=False, allow_unicode=True),
    )


def _strips(grids: SampleGrids) -> list[_Strips]:
    return [
        _Strips(label, owner, _data_uri("image/png", strip(teacher)), _data_uri("image/png", strip(student)))
        for label, owner, teacher, student in zip(
            grids.labels, grids.owners, grids.teacher, grids.students, strict=True
        )
    ]


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
