"""Sample grids as pictures: teacher beside the student that owns the class."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from msd_ray.evaluation.tiles import GAP, PAPER, side_by_side
from msd_ray.storage import Store


@dataclass(frozen=True)
class SampleGrids:
    """Samples of both sides, a row for each class that is shown.

    teacher, students: [classes, n, C, H, W] images in [-1, 1], or [classes, n, D] points. labels: the name of each
    class. owners: class -> student. of_points: whether they are points.
    """

    teacher: Tensor
    students: Tensor
    labels: Sequence[str]
    owners: Sequence[int]
    of_points: bool = False


def write_samples(store: Store, grids: SampleGrids) -> None:
    """Writes samples.png: a row per class, teacher samples and then student samples; points as scatter plots."""
    store.write("samples.png", to_png(scatter(grids) if grids.of_points else _overview(grids)))


def scatter(grids: SampleGrids) -> Figure:
    """Points of the teacher beside those of the students, coloured by class: first against last coordinate."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, title, points in ((left, "teacher", grids.teacher), (right, "students", grids.students)):
        axes.set_title(title)
        axes.set_aspect("equal")
        for label, x in zip(grids.labels, points.detach().cpu().float().numpy(), strict=True):
            axes.scatter(x[:, 0], x[:, -1], s=4, label=label, linewidths=0)
    _legend(figure, right)
    return figure


def to_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _overview(grids: SampleGrids) -> Figure:
    rows = [
        np.hstack([teacher, np.full((len(teacher), 6 * GAP, 3), PAPER, np.uint8), student])
        for teacher, student in zip(map(side_by_side, grids.teacher), map(side_by_side, grids.students), strict=True)
    ]
    canvas = np.vstack([np.pad(row, ((0, GAP), (0, 0), (0, 0)), constant_values=PAPER) for row in rows])
    height, width = canvas.shape[:2]
    figure = Figure(figsize=(10, max(1.5, 8 * height / width + 0.5)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.set_xticks([width / 4, 3 * width / 4], ["teacher", "students"])
    names = [f"{label} (student {owner})" for label, owner in zip(grids.labels, grids.owners, strict=True)]
    axes.set_yticks((np.arange(len(rows)) + 0.5) * height / len(rows) - 0.5, names, parse_math=False)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles[:20], labels[:20], loc="outside right center", markerscale=3, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called "$5"
