"""A picture of a load test: latency and throughput against the load."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from msd_ray.evaluation.curve_charts import to_svg
from msd_ray.evaluation.pictures import to_png
from msd_ray.serving.load.figures import Figures


def load_chart(stages: Sequence[Figures], suffix: str) -> bytes:
    """The file's bytes. suffix: .svg or .png. Closed and open loops get a column each: the latencies, and below them
    images per second and the share of tries that were shed."""
    closed, opened = [s for s in stages if s.callers], [s for s in stages if not s.callers]
    columns = [column for column in (closed, opened) if column]
    figure = Figure(figsize=(6.4 * len(columns), 5.6), layout="constrained")
    grid = figure.subplots(2, len(columns), squeeze=False, sharex="col")
    for column, of in enumerate(columns):
        load = [float(s.callers or s.rate) for s in of]
        _latencies(grid[0][column], load, of)
        _throughput(grid[1][column], load, of)
        grid[1][column].set_xlabel("callers" if of[0].callers else "requests per second that arrive")
    return to_svg(figure) if suffix == ".svg" else to_png(figure)


def _latencies(axes: Axes, load: list[float], stages: Sequence[Figures]) -> None:
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        values = [getattr(stage, name) for stage in stages]
        axes.plot(load, [float("nan") if v is None else v for v in values], marker="o", markersize=3, label=name[:3])
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    axes.legend(frameon=False)


def _throughput(axes: Axes, load: list[float], stages: Sequence[Figures]) -> None:
    axes.plot(load, [stage.images_per_second for stage in stages], marker="o", markersize=3, color="C3")
    axes.set_ylabel("images per second")
    axes.set_ylim(bottom=0)
    shares = axes.twinx()
    shares.plot(load, [stage.shed_share for stage in stages], marker=".", linestyle=":", color="C4")
    shares.set_ylabel("share of tries that was shed (dotted)")
    shares.set_ylim(0, 1)
