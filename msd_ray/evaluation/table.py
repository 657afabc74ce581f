"""The table of scores and costs: its rows, as records for a file and as text for people."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
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
    more = _asked_for(row.scores for row in rows)
    return [(headers(main, more), [cells(row, more) for row in rows]), *(_further(name, rows) for name in known)]


def _further(features: str, rows: Sequence[Row]) -> Table:
    found = [(row.name, scores) for row in rows for scores in row.also if scores.features == features]
    more = _asked_for(scores for _, scores in found)
    return _scored_in(features, more), [[name, *_shared_cells(scores, more)] for name, scores in found]


def _asked_for(scores: Iterable[Scores]) -> list[str]:
    """Those of MORE that are known of any."""
    found = list(scores)
    return [name for name in MORE if any(getattr(each, name) is not None for each in found)]


MORE = {"retrieval": "retrieval", "clip_score": "CLIP score"}
"""Scores that only tables have whose recipe asks for them, and their titles."""


def headers(features: str = "", more: Sequence[str] = ()) -> list[str]:
    """Column titles, in the order of `cells`. features: the name of those that distances are measured in. more: scores
    beside those that each table has."""
    costs = ["parameters", "NFE", "images", "wall", "CPU", "ms/image"]
    return [*_scored_in(features, more), "agreement", *costs]


def _scored_in(features: str, more: Sequence[str]) -> list[str]:
    """The titles of what further features have as well: they know no classes, so agreement is not among them."""
    fid = f"FID@n ({features})" if features else "FID@n"
    return ["sampler", fid, "FID / real", "KID x 1000", "precision", "recall", *(MORE[name] for name in more)]


def _shared_cells(s: Scores, more: Sequence[str]) -> list[str]:
    return [
        _text(s.fid, f"{_decimal(s.fid)}@{s.n}"),
        _text(s.fid_ratio, f"{s.fid_ratio:.2f}@{s.fid_ratio_n}"),
        _text(s.kid, _decimal(1000 * s.kid)),
        *map(_share, (s.precision, s.recall, *(getattr(s, name) for name in more))),
    ]


def cells(row: Row, more: Sequence[str] = ()) -> list[str]:
    """The row as text; "-" where nothing is known."""
    return [
        row.name,
        *_shared_cells(row.scores, more),
        _share(row.scores.agreement),
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
    known = [f.name for f in fields(Scores) if f.name in values or f.default is MISSING]  # older rows know fewer
    scores = _scores({name: values.pop(name) for name in known})
    return Row(scores=scores, also=tuple(map(_scores, values.pop("also"))), **values)


def _scores(record: TableRecord) -> Scores:
    return Scores(**record | {name: math.nan for name in _ALWAYS_NUMBERS if record[name] is None})


def _plain(record: TableRecord) -> TableRecord:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _text(value: float, text: str) -> str:
    return text if math.isfinite(value) else "-"


def _share(value: float | None) -> str:
    return "-" if value is None else _text(value, f"{value:.3f}")


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
