"""The pieces of an evaluation. Their figures do not depend on the process that measures, nor on interruptions."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch

from msd_ray.codecs import NO_CODEC, CodecConfig, load_codec
from msd_ray.data import DataConfig, load_data
from msd_ray.errors import CorruptError, TrainingError
from msd_ray.evaluation import (
    EvaluationConfig,
    FeatureNet,
    Row,
    SampleStatistics,
    from_records,
    gathered,
    load_features,
    scored,
    statistics_of,
    to_records,
    with_ratio,
)
from msd_ray.evaluation.feature_distances import neighbour_radii
from msd_ray.recipes import ClusterConfig
from msd_ray.runs.sample_sources import Make, Source
from msd_ray.storage import Store, read_manifest, write_bundle
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.device import prepare_device

SAVED = 5.0
"""Seconds of work after which a shard writes its state: the most that a process loses when it dies."""


@dataclass(frozen=True)
class EvaluationInputs:
    """What all pieces of an evaluation share. cache: where feature networks and figures lie. cluster: where they are
    measured, a "student" being a process that measures. threads: of each. codec: what samples look like."""

    data: DataConfig
    config: EvaluationConfig
    cache: Store
    cluster: ClusterConfig
    threads: int
    codec: CodecConfig = NO_CODEC

    def prepare_device(self) -> torch.device:
        return prepare_device(self.cluster.gpus_per_student, self.threads)


class OpenPiece(Protocol):
    """A piece in the process that measures it."""

    @property
    def nimg(self) -> int:
        """Samples done."""
        ...

    @property
    def bytes(self) -> int: ...

    def advance(self, hurried: Callable[[], bool]) -> None:
        """Measures some more samples, fewer once `hurried()`, and writes the state."""
        ...


class EvaluationPiece(Protocol):
    """A piece; small, since it is sent to the slot that measures it. row: the name of its row. images: its samples."""

    @property
    def basis(self) -> EvaluationInputs: ...

    @property
    def row(self) -> str: ...

    @property
    def images(self) -> int: ...

    def open(self, known: int = 0) -> OpenPiece:
        """The piece from its last written state. known: samples in a state that is known to be written. Raises
        TrainingError if that state is not visible here, so that the storage is not shared."""
        ...


Complete = Callable[[list[EvaluationPiece]], None]
"""Runs pieces to their end, in any order and any processes. Raises TrainingError if one cannot be measured."""


def here(pieces: list[EvaluationPiece]) -> None:
    """`Complete` in this process, one after the other."""
    for piece in pieces:
        opened = piece.open()
        while opened.nimg < piece.images:
            opened.advance(lambda: False)


@dataclass(frozen=True)
class Shard:
    """Some consecutive samples of a source in a set of `total`, from number `begin` of its own up to `end`.

    place: where in the cache they are kept as far as they are measured. neighbours: the k of the radii that are wanted
    at the end, 0 for none.
    """

    basis: EvaluationInputs
    row: str
    source: Source
    total: int
    begin: int
    end: int
    place: str
    neighbours: int = 0

    @property
    def folder(self) -> Store:
        return self.basis.cache.child(self.place).child(f"shard-{self.begin:012d}")

    @property
    def images(self) -> int:
        return self.end - self.begin

    def measured(self) -> SampleStatistics | None:
        """The statistics; None if the shard is not measured to its end, or its state is damaged."""
        state = Checkpoints(self.folder, keep=1).latest()
        return SampleStatistics.from_state(state) if state and state.meta["nimg"] == self.images else None

    def open(self, known: int = 0) -> "OpenShard":
        basis = self.basis
        device = basis.prepare_device()
        net = _net(basis.config.features, basis.data, basis.cache.uri, basis.codec)
        checkpoints = Checkpoints(self.folder, keep=1)
        state = checkpoints.latest(known)
        return OpenShard(
            self,
            opened(self.source, basis.data, str(device)),
            net,
            checkpoints,
            SampleStatistics.from_state(state) if state else None,
        )


@dataclass
class OpenShard:
    """A shard in the process that measures it."""

    shard: Shard
    make: Make
    net: FeatureNet
    checkpoints: Checkpoints
    sofar: SampleStatistics | None

    @property
    def nimg(self) -> int:
        return self.sofar.n if self.sofar else 0

    @property
    def bytes(self) -> int:
        return self.sofar.to_state().bytes if self.sofar else 0

    def advance(self, hurried: Callable[[], bool]) -> None:
        begin, start, shard = self.nimg, time.monotonic(), self.shard
        while self.nimg < shard.images and not hurried():
            batch = self._next_batch()
            self.sofar = self.sofar + batch if self.sofar else batch
            if time.monotonic() - start >= SAVED:
                break
        if self.sofar and self.nimg > begin:
            if self.nimg == shard.images and len(self.sofar.features) > shard.neighbours > 0:
                self.sofar = replace(self.sofar, radii=neighbour_radii(self.sofar.features, shard.neighbours))
            self.checkpoints.save(self.sofar.to_state())

    def _next_batch(self) -> SampleStatistics:
        shard, begin = self.shard, self.shard.begin + self.nimg
        end = min(begin + shard.basis.config.batch, shard.end)
        numbers, start = shard.source.numbers(shard.total)[begin:end], time.perf_counter()
        samples = self.make(numbers)
        seconds = time.perf_counter() - start
        keep = shard.source.kept(numbers, shard.total)
        return replace(statistics_of(self.net, samples, numbers, keep), seconds=seconds)


@lru_cache(maxsize=1)
def opened(source: Source, data: DataConfig, device: str) -> Make:
    """A process that measures one shard after the other reads networks once."""
    return source.open(data, torch.device(device))


@lru_cache(maxsize=1)
def _net(features: str, data: DataConfig, cache: str, codec: CodecConfig) -> FeatureNet:
    return load_features(features, load_data(data), Store(cache), load_codec(codec))


@dataclass(frozen=True)
class Scoring:
    """A row of the table, of shards that are measured to their ends. real, held_out: the real samples of the same
    classes. folder: where the row is kept. timed: whether it says how long a sample takes."""

    basis: EvaluationInputs
    name: str
    shards: tuple[Shard, ...]
    real: Shard
    held_out: Shard | None
    folder: Store
    timed: bool = False
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
        """The statistics of a finished shard. Raises TrainingError if they are missing."""
        fake, real = gathered([_whole(shard) for shard in self.shards]), _whole(self.real)
        held_out = _whole(self.held_out) if self.held_out else None
        scores = with_ratio(scored(fake, real, self.basis.config), fake, held_out, real)
        return Row(self.name, scores, ms_per_image=1000 * fake.seconds / fake.n if self.timed else None)


def _whole(shard: Shard) -> SampleStatistics:
    if found := shard.measured():
        return found
    raise TrainingError(
        f"what was measured is missing from {shard.folder.uri}; is MSD_RAY_CACHE storage that all nodes share?"
    )


@dataclass
class OpenScoring:
    """nimg: 1 once it is done."""

    scoring: Scoring
    nimg: int
    bytes: int = 0

    def advance(self, hurried: Callable[[], bool]) -> None:
        write_bundle(self.scoring.folder, {"row": to_records([self.scoring.measure()])[0]}, [])
        self.nimg = 1
