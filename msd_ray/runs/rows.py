"""Which rows a table has, and which pieces of work they take."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_ray.codecs import load_codec
from msd_ray.conditions import make_conditions, named
from msd_ray.data import identity, load_data
from msd_ray.data.clusters import COMPONENTS
from msd_ray.data.clusters import NAME as CLUSTERS
from msd_ray.errors import CorruptError
from msd_ray.evaluation import Costs, Row, Scores, clip, features_name
from msd_ray.evaluation.feature_distances import Numbers
from msd_ray.evaluation.feature_nets import dimensions
from msd_ray.evaluation.reference import read_reference
from msd_ray.networks.weights import StoredWeights, to_chunks
from msd_ray.recipes import ClusterConfig, Recipe
from msd_ray.runs.chunks import Chunk, opened
from msd_ray.runs.compatibility import judged_networks, without_imports
from msd_ray.runs.evaluation_pieces import Complete, EvaluationInputs, EvaluationPiece
from msd_ray.runs.sample_sources import FromPart, FromTeacher, Real, Source
from msd_ray.runs.scoring import Scoring
from msd_ray.storage import Store, digest, read_manifest, write_bundle

DRAWN = "samples.safetensors"


@dataclass(frozen=True)
class Drawing:
    """The first samples of the conditions that the report shows. sources: which together make them. n: conditions that
    there are. ids: those that are shown. each: samples of each."""

    basis: EvaluationInputs
    row: str
    sources: tuple[Source, ...]
    n: int
    ids: tuple[int, ...]
    each: int
    folder: Store

    @property
    def numbers(self) -> Numbers:
        """Those of the samples, in a set in which all conditions come in turn."""
        return np.concatenate([np.array(self.ids) + i * self.n for i in range(self.each)])

    @property
    def images(self) -> int:
        return len(self.numbers)

    def kept(self) -> Tensor | None:
        """[ids, each, ...]; None where they were not made yet, or are damaged."""
        try:
            x: Tensor = StoredWeights(self.folder, read_manifest(self.folder), DRAWN).read()["x"]
        except (FileNotFoundError, CorruptError):
            return None
        return x.reshape(self.each, -1, *x.shape[1:]).transpose(0, 1)

    def open(self, known: int = 0) -> "OpenDrawing":
        return OpenDrawing(self, 0 if self.kept() is None else self.images)


@dataclass
class OpenDrawing:
    """nimg: all of them, once they are made."""

    drawing: Drawing
    nimg: int
    bytes: int = 0

    def advance(self, hurried: Callable[[], bool]) -> None:
        drawing, basis = self.drawing, self.drawing.basis
        device, made = basis.prepare_device(), dict[int, Tensor]()
        for source in drawing.sources:
            numbers = np.intersect1d(source.numbers(drawing.n * drawing.each), drawing.numbers)
            if not len(numbers):  # a part that owns none of the conditions that are shown
                continue
            make = opened(source, basis.data, str(device))
            for some in np.array_split(numbers, -(-len(numbers) // basis.config.batch)):
                made |= zip(some.tolist(), make(some).x, strict=True)
        x = torch.stack([made[number] for number in drawing.numbers.tolist()])
        write_bundle(drawing.folder, {"drawn": drawing.images}, [(DRAWN, partial(to_chunks, {"x": x}))])
        self.nimg = drawing.images


VERSION = 3
"""To be raised when something else is measured under the same name."""
MOST_SHARDS = 16
"""Of one source: so many processes can work on it at once."""
SHOWN_PER_CLASS, MOST_SHOWN = 12, 40
"""Samples of each condition in a report, and conditions, at most: all of a thousand would take hours."""


def shown(n: int, samples: int) -> tuple[int, ...]:
    """Which of n conditions a report shows: all, or evenly spread ones where these are too many, or more than the
    samples that a row of the table is of."""
    rows = min(n, MOST_SHOWN, samples)
    return tuple(i * n // rows for i in range(rows))


@dataclass(frozen=True)
class RequestedRow:
    """A row that is asked for. scoring: None where none of the samples is of its classes. n: how many there are."""

    name: str
    costs: Costs
    scoring: Scoring | None
    n: int

    @property
    def missing(self) -> bool:
        """Whether it has to be measured yet."""
        return self.scoring is not None and self.scoring.kept() is None

    @property
    def generated(self) -> list[Chunk]:
        """What it is gathered from, real samples apart."""
        return [chunk for chunk in self.scoring.chunks if not chunk.neighbours] if self.scoring else []

    def row(self) -> Row:
        kept = self.scoring.kept() if self.scoring else None
        missing = f"none of the {self.n} samples is of its classes"
        none = Scores(0, math.nan, math.nan, math.nan, math.nan, missing=missing)
        return replace(kept or Row(self.name, none), **asdict(self.costs))


class ScoreTable:
    """Says what each row of an evaluation takes."""

    def __init__(self, recipe: Recipe, cache: Store) -> None:
        config, self._data = recipe.evaluation, load_data(recipe.data)
        threads = recipe.training.threads
        self._basis = EvaluationInputs(
            recipe.data, config, cache, _where(recipe), threads, recipe.codec, recipe.conditions
        )
        self._conditions = make_conditions(recipe.conditions, self._data.labels)
        self._features = spaces(recipe, self._data.shape)
        seen: list[Any] = [said] if (said := recipe.codec.to_json()) else []
        self._reference = reference_of(recipe, self._data.shape)
        seen += [clip.fingerprint(config.clip)] if config.clip else []
        self._common = [VERSION, identity(recipe.data), self._features, config.batch, *seen]

    def whole(self) -> Chunk:
        """All training data, which everything is judged against."""
        chunk = self._real("train")
        assert chunk, "there is a sample to train on"
        return chunk

    def held_out(self) -> RequestedRow:
        """Real samples that nobody trained on: what a perfect sampler would score at this n."""
        chunk = self._real("held_out")
        return self._asked("real, held out", [chunk] if chunk else [], None, Costs(), False)

    def teacher(self, name: str, teacher: FromTeacher, costs: Costs) -> RequestedRow:
        return self._asked(name, self._chunks(name, teacher), None, costs, True)

    def ensemble(self, name: str, parts: Sequence[FromPart], costs: Costs) -> RequestedRow:
        chunks = [chunk for part in parts for chunk in self._chunks(name, part)]
        return self._asked(name, chunks, None, costs, True)

    def student(self, ensemble: str, part: FromPart, costs: Costs) -> RequestedRow:
        """A student's samples among those of its ensemble, judged against real samples of its own conditions only."""
        name = f"student {part.part} ({named(self._conditions, part.ids.tolist())})"
        return self._asked(name, self._chunks(ensemble, part), part, costs, False)

    def drawing(self, sources: Sequence[Source]) -> Drawing:
        """The samples that a report shows."""
        n, samples = self._conditions.n, self._basis.config.samples
        ids = shown(n, samples)
        each = min(SHOWN_PER_CLASS, samples // len(ids))
        key = digest([*self._common, [source.to_json() for source in sources], ids, each])
        folder = self._basis.cache.child(f"drawn-{key}")
        return Drawing(self._basis, "samples to show", tuple(sources), n, ids, each, folder)

    def _asked(
        self, name: str, chunks: list[Chunk], of_part: FromPart | None, costs: Costs, timed: bool
    ) -> RequestedRow:
        """of_part: whose conditions the real samples are of, if not of all."""
        basis, config = self._basis, self._basis.config
        if not chunks:
            return RequestedRow(name, costs, None, config.samples)
        more = ["retrieval"] if config.retrieval else []
        of, reference = Real("train", of_part).to_json(), [] if of_part else self._reference
        key = digest([[c.place for c in chunks], of, config.neighbours, config.kid_subsets, timed, *reference, *more])
        real, held_out = self._real("train", of_part), self._real("held_out", of_part)
        assert real, "each condition has a sample to train on"
        folder = basis.cache.child(f"row-{key}")
        against = config.reference if reference else ""
        scoring = Scoring(basis, name, tuple(chunks), real, held_out, self._features, folder, timed, against)
        return RequestedRow(name, costs, scoring, config.samples)

    def _real(self, split: Any, of_part: FromPart | None = None) -> Chunk | None:
        """None where there are no such samples."""
        source, k = Real(split, of_part), self._basis.config.neighbours
        total, key = len(source.of(self._data)), digest([*self._common, source.to_json(), k])
        return Chunk(self._basis, "real samples", source, total, 0, total, f"real-{key}", k) if total else None

    def _chunks(self, row: str, source: Source) -> list[Chunk]:
        """Whole batches each, and as many chunks whoever measures them: the figures depend on that."""
        total, batch = self._basis.config.samples, self._basis.config.batch
        n = len(source.numbers(total))
        place = f"samples-{digest([*self._common, source.to_json(), total])}"
        step = batch * -(-n // (batch * MOST_SHARDS))
        return [Chunk(self._basis, row, source, total, i, min(i + step, n), place) for i in range(0, n, step or 1)]


def spaces(recipe: Recipe, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the features that an evaluation of samples of this shape is measured in, the main ones first."""
    codec = load_codec(recipe.codec)
    return tuple(features_name(name, shape, codec) for name in recipe.evaluation.spaces)


def flattered(recipe: Recipe, shape: tuple[int, ...]) -> str:
    """A line where scores are in the features of a network that a discriminator judged in training, or in those that
    the classes were made by; empty where not."""
    judged = tuple(judged_networks(without_imports(recipe)))
    same = [name for name in spaces(recipe, shape) if name.startswith(judged)]
    clustered = recipe.data.name == CLUSTERS and recipe.data.options["features"] == COMPONENTS
    if clustered and "identity" in spaces(recipe, shape):
        return (
            "scores in identity flatter the students, whose classes are clusters of the same numbers: compare them in "
            "other features"
        )
    if not same:
        return ""
    return (
        f"scores in {' and '.join(same)} flatter the students, whose discriminator judged that network's features in "
        f"training: compare them in other features"
    )


def reference_of(recipe: Recipe, shape: tuple[int, ...]) -> list[str]:
    """The digest of the recipe's reference statistics, or nothing. Raises UserError where they cannot be used."""
    if not (path := recipe.evaluation.reference):
        return []
    moments = read_reference(path, dimensions(spaces(recipe, shape)[0], shape, recipe.evaluation.files))
    return [digest([moments.mean.tolist(), moments.scatter.sum(0).tolist(), np.diag(moments.scatter).tolist()])]


def _where(recipe: Recipe) -> ClusterConfig:
    """The recipe's cluster, with what a process that measures takes in place of a student."""
    cpus, gpus = recipe.evaluation.cpus, recipe.evaluation.gpus
    return replace(
        recipe.cluster,
        teacher="local",
        cpus_per_student=cpus,
        gpus_per_student=recipe.cluster.gpus_per_student if gpus is None else gpus,
        workers_per_student=(1, 1),
        min_slots=1,
    )


def measure(asked: Sequence[RequestedRow], drawings: Sequence[Drawing], complete: Complete) -> None:
    """Sees that every row and drawing is kept: measures what is missing of them, and no more."""
    missing = [row for row in asked if row.missing]
    scorings = [row.scoring for row in missing if row.scoring]
    real = _undone(chunk for scoring in scorings for chunk in (scoring.real, scoring.held_out) if chunk)
    generated = _undone(chunk for row in missing for chunk in row.generated)
    first = list(real.values())[:1]  # alone, since it may have to make the feature network
    chunks = [*list(real.values())[1:], *generated.values()]
    steps: list[list[EvaluationPiece]] = [
        [*first],
        [*chunks, *(drawing for drawing in drawings if drawing.kept() is None)],
        [*scorings],
    ]
    for pieces in steps:
        if pieces:
            complete(pieces)
    for place, cache in {chunk.place: chunk.basis.cache for row in asked for chunk in row.generated}.items():
        cache.delete(place)  # a row is small, what it was gathered from is not


def _undone(chunks: Iterable[Chunk]) -> dict[str, Chunk]:
    """Those that are not measured yet, each once, by where they are kept."""
    return {f"{chunk.place}/{chunk.begin}": chunk for chunk in chunks if not chunk.measured()}
