"""What a trial's ensemble makes, as one picture."""

import torch
from matplotlib.figure import Figure

from msd_ray.data import Samples
from msd_ray.evaluation.pictures import to_png
from msd_ray.evaluation.tiles import sheet

SHOWN = 8
"""Samples of each class, and classes."""


def picture(samples: Samples, classes: int) -> bytes:
    """PNG of the first samples, a row per class; of points, a scatter plot of all, coloured by class."""
    if samples.x.ndim == 2:
        return to_png(_scatter(samples))
    shown = [samples.x[samples.condition == c][:SHOWN] for c in range(min(classes, SHOWN))]
    most = min(len(row) for row in shown)
    return sheet(torch.stack([row[:most] for row in shown]))


def _scatter(samples: Samples) -> Figure:
    figure = Figure(figsize=(3, 3), layout="constrained")
    axes = figure.subplots()
    axes.scatter(samples.x[:, 0], samples.x[:, -1], s=2, c=samples.condition, cmap="tab20", linewidths=0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure
