"""The pieces of an evaluation that measure samples."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from msd_ray.codecs import CodecConfig, load_codec
from msd_ray.data import DataConfig, load_data
from msd_ray.evaluation import (
    FeatureNet,
    SampleStatistics,
    load_features,
    statistics_of,
)
from msd_ray.evaluation.feature_distances import neighbour_radii
from msd_ray.runs.evaluation_pieces import EvaluationInputs
from msd_ray.runs.sample_sources import Make, Source
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints

SAVED = 5.0
"""Seconds of work after which a chunk writes its state: the most that a process loses when it dies."""
FOLDER = "shard-"
"""How the names of their folders begin: an older word, so that caches of before are still read."""


@dataclass(frozen=True)
class Chunk:
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
        return self.basis.cache.child(self.place).child(f"{FOLDER}{self.begin:012d}")

    @property
    def images(self) -> int:
        return self.end - self.begin

    def measured(self) -> SampleStatistics | None:
        """The statistics; None if the chunk is not measured to its end, or its state is damaged."""
        state = Checkpoints(self.folder, keep=1).latest()
        return SampleStatistics.from_state(state) if state and state.meta["nimg"] == self.images else None

    def open(self, known: int = 0) -> "OpenChunk":
        basis = self.basis
        device = basis.prepare_device()
        net = _net(basis.config.features, basis.data, basis.cache.uri, basis.codec)
        checkpoints = Checkpoints(self.folder, keep=1)
        state = checkpoints.latest(known)
        return OpenChunk(
            self,
            opened(self.source, basis.data, str(device)),
            net,
            checkpoints,
            SampleStatistics.from_state(state) if state else None,
        )


@dataclass
class OpenChunk:
    """A chunk in the process that measures it."""

    chunk: Chunk
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
        begin, start, chunk = self.nimg, time.monotonic(), self.chunk
        while self.nimg < chunk.images and not hurried():
            batch = self._next_batch()
            self.sofar = self.sofar + batch if self.sofar else batch
            if time.monotonic() - start >= SAVED:
                break
        if self.sofar and self.nimg > begin:
            if self.nimg == chunk.images and len(self.sofar.features) > chunk.neighbours > 0:
                self.sofar = replace(self.sofar, radii=neighbour_radii(self.sofar.features, chunk.neighbours))
            self.checkpoints.save(self.sofar.to_state())

    def _next_batch(self) -> SampleStatistics:
        chunk, begin = self.chunk, self.chunk.begin + self.nimg
        end = min(begin + chunk.basis.config.batch, chunk.end)
        numbers, start = chunk.source.numbers(chunk.total)[begin:end], time.perf_counter()
        samples = self.make(numbers)
        seconds = time.perf_counter() - start
        keep = chunk.source.kept(numbers, chunk.total)
        return replace(statistics_of(self.net, samples, numbers, keep), seconds=seconds)


@lru_cache(maxsize=1)
def opened(source: Source, data: DataConfig, device: str) -> Make:
    """A process that measures one chunk after the other reads networks once."""
    return source.open(data, torch.device(device))


@lru_cache(maxsize=1)
def _net(features: str, data: DataConfig, cache: str, codec: CodecConfig) -> FeatureNet:
    return load_features(features, load_data(data), Store(cache), load_codec(codec))
