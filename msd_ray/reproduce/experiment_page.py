"""An experiment's outcome as a page and a plot."""

import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from msd_ray.evaluation.curve_charts import INK, in_grey, to_svg
from msd_ray.reproduce.experiment import Experiment, Summaries
from msd_ray.reproduce.reproduce import TEACHER, Finding
from msd_ray.storage import Store


def write_page(
    store: Store, experiment: Experiment, seeds: Sequence[int], found: Summaries, findings: list[Finding]
) -> list[str]:
    """Writes NAME.md and NAME.svg; returns where they are."""
    name = experiment.name
    store.write(f"{name}.md", page(experiment, seeds, found, findings).encode())
    store.write(f"{name}.svg", plot(experiment, found))
    return [f"{store.uri}/{name}.md", f"{store.uri}/{name}.svg"]


def page(experiment: Experiment, seeds: Sequence[int], found: Summaries, findings: list[Finding]) -> str:
    """The table, the claims and how to make both again, as Markdown."""
    machine = f"{os.cpu_count()} logical CPUs, torch {torch.__version__}"
    flags = " ".join(f"--seeds {seed}" for seed in seeds)
    lines = [f"# {experiment.title}", "", f"    msd-ray reproduce {experiment.name} {flags}", ""]
    lines += [f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}; on {machine}."]
    lines += ["", f"![{experiment.title}]({experiment.name}.svg)", ""]
    headers, rows = grid(experiment, found)
    lines += [f"| {' | '.join(headers)} |", f"| --- |{' ---: |' * (len(headers) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    for finding in findings:
        lines += ["", f"**{'Holds' if finding.holds else 'Does not hold'}**: {finding.claim}. Ours: {finding.figures}."]
    return "\n".join([*lines, ""])


def grid(experiment: Experiment, found: Summaries) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the table; the teacher first."""
    n = "/".join(f"{n:g}" for n in sorted({n for arm in experiment.arms for n in found[arm.name]["n"].values}))
    headers = ["", *(f"{column}@{n}" if column.endswith("fid") else column for column in experiment.columns)]
    names = [TEACHER, *(arm.name for arm in experiment.arms)]
    return headers, [[name, *(str(found[name][column]) for column in experiment.columns)] for name in names]


def plot(experiment: Experiment, found: Summaries) -> bytes:
    """The first column: lines over x with error bars, or bars where the arms have no order."""
    column = experiment.columns[0]
    height = 3.6 if experiment.x else max(3.6, 0.25 * len(experiment.arms))
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    if experiment.x:
        lines = defaultdict(list)
        for arm in experiment.arms:
            lines[arm.line].append(arm)
        for label, arms in lines.items():
            values = [found[arm.name][column] for arm in arms]
            spread = [np.nan_to_num(v.sd) for v in values]
            axes.errorbar([a.x for a in arms], [v.mean for v in values], spread, label=label, marker="o", capsize=3)
        axes.set_xlabel(experiment.x)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=INK)
    else:
        names = [arm.name for arm in experiment.arms]
        values = [found[name][column] for name in names]
        axes.barh(names, [v.mean for v in values], xerr=[np.nan_to_num(v.sd) for v in values])
        axes.invert_yaxis()
    (axes.set_ylabel if experiment.x else axes.set_xlabel)(column)
    teacher = found[TEACHER][column].mean
    if np.isfinite(teacher):
        (axes.axhline if experiment.x else axes.axvline)(teacher, color=INK, linestyle="--", linewidth=0.8)
    in_grey(axes)
    return to_svg(figure)
