"""The table of scores and costs: its rows, as records for a file and as text for people."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from msd_ray.conditions import in_turn
from msd_ray.data import Samples
from msd_ray.evaluation.scores import Judge, Scores
from msd_ray.formatting import duration

_ALWAYS_NUMBERS = ("fid", "kid", "precision", "recall", "fid_ratio")
TableRecord = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
"""Headers and rows of cells."""


@dataclass(frozen=True)
class Costs:
    """What a sampler cost to make and to run; None where unknown.

    parameters: of all its networks. nfe: network evaluations per sample. images: trained on. wall_seconds, cpu_seconds:
    of its training.
    """

    parameters: int | None = None
    nfe: int | None = None
    images: int | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: the costs are those of `Costs`; ms_per_image is the wall time to generate one sample.
    also: the scores of the same samples in further features. remark: what whoever reads the scores must know."""

    name: str
    scores: Scores
    parameters: int | None = None
    nfe: int | None = None
    images: int | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    ms_per_image: float | None = None
    also: tuple[Scores, ...] = ()
    remark: str = ""


def to_records(rows: list[Row]) -> list[TableRecord]:
    """A dict per row, fit for JSON, flat but for `also`: undefined scores are None."""
    records = []
    for row in rows:
        flat = asdict(row)
        scores, also = flat.pop("scores"), flat.pop("also")
        records.append({"name": flat.pop("name")} | _plain(scores | flat) | {"also": [*map(_plain, also)]})
    return records


def from_records(records: list[TableRecord]) -> list[Row]:
    """The rows that `to_records` made `records` of. Raises KeyError where a column is missing."""
    return [_row(record) for record in records]


def tables(rows: Sequence[Row]) -> list[Table]:
    """The rows as text: all of them in the main features, then their scores in each of the further ones."""
    known = {scores.features: None for row in rows for scores in row.also}
    main = next((row.scores.features for row in rows if row.scores.features), "")
    return [(headers(main), [cells(row) for row in rows]), *(_further(name, rows) for name in known)]


def _further(features: str, rows: Sequence[Row]) -> Table:
    found = [(row.name, scores) for row in rows for scores in row.also if scores.features == features]
    return headers(features)[:SCORED], [cells(Row(name, scores))[:SCORED] for name, scores in found]


SCORED = 6
"""Columns that further features fill: they know no classes, so agreement is not among them."""


def headers(features: str = "") -> list[str]:
    """Column titles, in the order of `cells`. features: the name of those that distances are measured in."""
    costs = ["parameters", "NFE", "images", "wall", "CPU", "ms/image"]
    fid = f"FID@n ({features})" if features else "FID@n"
    return ["sampler", fid, "FID / real", "KID x 1000", "precision", "recall", "agreement", *costs]


def cells(row: Row) -> list[str]:
    """The row as text; "-" where nothing is known."""
    s = row.scores
    return [
        row.name,
        _text(s.fid, f"{_decimal(s.fid)}@{s.n}"),
        _text(s.fid_ratio, f"{s.fid_ratio:.2f}@{s.fid_ratio_n}"),
        _text(s.kid, _decimal(1000 * s.kid)),
        *(_text(share, f"{share:.3f}") if share is not None else "-" for share in (s.precision, s.recall, s.agreement)),
        _count(row.parameters),
        "-" if row.nfe is None else str(row.nfe),
        _count(row.images),
        duration(row.wall_seconds),
        duration(row.cpu_seconds),
        "-" if row.ms_per_image is None else f"{row.ms_per_image:.3g}",
    ]


def remarks(rows: Sequence[Row]) -> list[str]:
    """What is to be known of the scores, and why a "-" stands where one is undefined, a line for each row that has
    any."""
    said = [f"{row.name}: {scores.missing}" for row in rows for scores in (row.scores, *row.also) if scores.missing]
    return list(dict.fromkeys([*(row.remark for row in rows if row.remark), *said]))


def _row(record: TableRecord) -> Row:
    values = dict(record)
    scores = _scores({f.name: values.pop(f.name) for f in fields(Scores)})
    return Row(scores=scores, also=tuple(map(_scores, values.pop("also"))), **values)


def _scores(record: TableRecord) -> Scores:
    return Scores(**record | {name: math.nan for name in _ALWAYS_NUMBERS if record[name] is None})


def _plain(record: TableRecord) -> TableRecord:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _text(value: float, text: str) -> str:
    return text if math.isfinite(value) else "-"


def _decimal(value: float) -> str:
    """Two decimals, or three significant digits where that is more: distances between points are small."""
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def _count(n: int | None) -> str:
    if n is None:
        return "-"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= size:
            return f"{n / size:.3g}{unit}" if n < 999.5 * size else f"{n / size:.0f}{unit}"
    return str(n)


Sampler = Callable[[Tensor, list[int]], Tensor]
"""(conditions asked for [B], one seed per sample) -> samples [B, ...]"""

WARM_UP = 8


def sampler_row(
    name: str, judge: Judge, sample: Sampler, ids: Tensor, costs: Costs | None = None
) -> tuple[Row, Samples]:
    """The row of one sampler and the `judge.config.samples` samples it was judged by.

    They have the seeds 0, 1, ... and the conditions `ids` [M] in turn. ms_per_image is wall time after a small warm-up.
    """
    n, batch = judge.config.samples, judge.config.batch
    conditions = in_turn(ids, torch.arange(n))
    sample(conditions[:WARM_UP], list(range(min(n, WARM_UP))))
    begin = time.perf_counter()
    parts = [sample(conditions[i : i + batch], list(range(i, min(i + batch, n)))) for i in range(0, n, batch)]
    x = torch.cat([part.detach().cpu() for part in parts])  # waits for a GPU, so it belongs to the time
    seconds = time.perf_counter() - begin
    row = Row(name, judge.score(x, conditions), **asdict(costs or Costs()), ms_per_image=1000 * seconds / n)
    return row, Samples(x, conditions)
