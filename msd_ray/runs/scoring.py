"""The piece of an evaluation that makes a row of measured samples."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from msd_ray.conditions import make_conditions
from msd_ray.data import load_data
from msd_ray.errors import CorruptError, TrainingError
from msd_ray.evaluation import Row, SampleStatistics, clip, from_records, scored, to_records, with_ratio
from msd_ray.evaluation.reference import read_reference
from msd_ray.runs.chunks import Chunk
from msd_ray.runs.evaluation_pieces import EvaluationInputs
from msd_ray.storage import Store, read_manifest, write_bundle


@dataclass(frozen=True)
class Scoring:
    """A row of the table, of chunks that are measured to their ends. real, held_out: the real samples of the same
    classes. features: the names of those that it has scores in, the main ones first. folder: where the row is kept.
    timed: whether it says how long a sample takes. reference: a file of moments that FIDs in the main features are
    measured against, instead of `real`'s."""

    basis: EvaluationInputs
    name: str
    chunks: tuple[Chunk, ...]
    real: Chunk
    held_out: Chunk | None
    features: tuple[str, ...]
    folder: Store
    timed: bool = False
    reference: str = ""
    row: str = "scores"
    images: int = 1

    def kept(self) -> Row | None:
        """The row without its costs; None if it was not measured yet, or is damaged."""
        try:
            (row,) = from_records([read_manifest(self.folder).body["row"]])
        except (FileNotFoundError, CorruptError, KeyError, TypeError):
            return None
        return replace(row, name=self.name)

    def open(self, known: int = 0) -> "OpenScoring":
        self.basis.prepare_device()
        return OpenScoring(self, int(self.kept() is not None))

    def measure(self) -> Row:
        """The statistics of a finished chunk. Raises TrainingError if they are missing."""
        reals = list(_whole(self.real))
        if self.reference:
            moments = read_reference(self.reference, len(reals[0].moments.mean))
            reals[0] = replace(reals[0], moments=moments)
        fakes = reduce(_both, map(_whole, self.chunks))
        held_out = _whole(self.held_out) if self.held_out else (None,) * len(fakes)
        first, *also = [
            replace(
                with_ratio(scored(fake, real, self.basis.config), fake, unseen, real),
                features=name,
                clip_score=self._clip_score(fake) if name == clip.NAME else None,
            )
            for name, fake, real, unseen in zip(self.features, fakes, reals, held_out, strict=True)
        ]
        ms = 1000 * fakes[0].seconds / fakes[0].n if self.timed else None
        return Row(self.name, first, ms_per_image=ms, also=tuple(also))

    def _clip_score(self, fake: SampleStatistics) -> float | None:
        """Of those whose features are kept; None where no prompts were asked for."""
        conditions = make_conditions(self.basis.conditions, load_data(self.basis.data).labels)
        if not conditions.is_open or not len(fake.features):
            return None
        ids, of_each = np.unique(fake.condition, return_inverse=True)
        texts = clip.load(self.basis.config.clip).of_texts(conditions.labels(ids.tolist()))
        return clip.clip_score(fake.features, texts[of_each])


def _both(some: tuple[SampleStatistics, ...], more: tuple[SampleStatistics, ...]) -> tuple[SampleStatistics, ...]:
    """Of two sets of samples, in each of the features. Chunks are added one after the other: the moments of all of
    them at once would take gigabytes."""
    return tuple(a + b for a, b in zip(some, more, strict=True))


def _whole(chunk: Chunk) -> tuple[SampleStatistics, ...]:
    if found := chunk.measured():
        return found
    raise TrainingError(
        f"what was measured is missing from {chunk.folder.uri}; is MSD_RAY_CACHE storage that all nodes share?"
    )


@dataclass
class OpenScoring:
    """nimg: 1 once it is done."""

    scoring: Scoring
    nimg: int
    bytes: int = 0

    def advance(self, hurried: Callable[[], bool]) -> None:
        try:
            write_bundle(self.scoring.folder, {"row": to_records([self.scoring.measure()])[0]}, [])
        except TrainingError:
            if self.scoring.kept() is None:  # else another evaluation has made the row, and tidied up
                raise
        self.nimg = 1
