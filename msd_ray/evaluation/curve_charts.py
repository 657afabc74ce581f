"""Training curves as SVG."""

import io

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

INK = "#808080"
"""A grey that can be read on white and on black, as a chart does not know which it lies on."""


def curve_charts(curves: pd.DataFrame) -> dict[str, bytes]:
    """One SVG per metric, a line per student, FID first.

    curves: columns student, stage, nimg (images seen over all stages), name (of the metric), value.
    """
    names = sorted(curves["name"].unique(), key=lambda name: (not str(name).startswith("fid"), str(name)))
    return {str(name): to_svg(_chart(curves[curves["name"] == name], curves, str(name))) for name in names}


def to_svg(figure: Figure) -> bytes:
    """The figure on a transparent ground; the same bytes for the same figure."""
    file = io.BytesIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.hashsalt": "msd_ray"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _chart(rows: pd.DataFrame, every_row: pd.DataFrame, name: str) -> Figure:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for student, line in rows.sort_values("nimg").groupby("student"):
        marker = "o" if len(line) < 30 else None
        axes.plot(line["nimg"], line["value"], label=str(student), linewidth=1.3, marker=marker, markersize=3)
    if rows["value"].min() > 0 and rows["value"].max() > 20 * rows["value"].min():
        axes.set_yscale("log")
    _mark_stages(axes, every_row)
    axes.set_xlabel("images seen")
    axes.set_ylabel(name, parse_math=False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    in_grey(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, ncols=2)
    return figure


def _mark_stages(axes: Axes, rows: pd.DataFrame) -> None:
    """A dashed line where each stage but the first begins, with its name: where the stage before it was last logged."""
    spans = rows.groupby("stage")["nimg"].agg(["min", "max"]).sort_values(["min", "max"])
    for before, stage in zip(spans["max"], spans.index[1:], strict=False):
        axes.axvline(before, color=INK, linestyle="--", linewidth=0.8)
        axes.text(
            before,
            1.01,
            str(stage),
            transform=axes.get_xaxis_transform(),
            color=INK,
            fontsize=8,
            ha="center",
            parse_math=False,
        )


def in_grey(axes: Axes) -> None:
    """Frame, ticks and labels in `INK`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(INK)
    axes.tick_params(which="both", colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=INK, alpha=0.2, linewidth=0.5)
