"""The pieces of an evaluation that measure samples."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import add

import torch

from msd_ray.codecs import CodecConfig, load_codec
from msd_ray.data import DataConfig, load_data
from msd_ray.evaluation import (
    EvaluationConfig,
    FeatureNet,
    SampleStatistics,
    load_features,
    statistics_of,
)
from msd_ray.evaluation.feature_distances import neighbour_radii
from msd_ray.evaluation.sample_statistics import from_state, to_state
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

    def measured(self) -> tuple[SampleStatistics, ...]:
        """The statistics in each of the evaluation's features; empty if the chunk is not measured to its end, or its
        state is damaged."""
        state = Checkpoints(self.folder, keep=1).latest()
        return from_state(state) if state and state.meta["nimg"] == self.images else ()

    def open(self, known: int = 0) -> "OpenChunk":
        basis = self.basis
        device = basis.prepare_device()
        nets = _nets(basis.config, basis.data, basis.cache.uri, basis.codec)
        checkpoints = Checkpoints(self.folder, keep=1)
        state = checkpoints.latest(known)
        return OpenChunk(
            self,
            opened(self.source, basis.data, str(device)),
            nets,
            checkpoints,
            from_state(state) if state else (),
        )


@dataclass
class OpenChunk:
    """A chunk in the process that measures it. sofar: what is measured, in the features of each of `nets`."""

    chunk: Chunk
    make: Make
    nets: tuple[FeatureNet, ...]
    checkpoints: Checkpoints
    sofar: tuple[SampleStatistics, ...]

    @property
    def nimg(self) -> int:
        return self.sofar[0].n if self.sofar else 0

    @property
    def bytes(self) -> int:
        return to_state(self.sofar).bytes if self.sofar else 0

    def advance(self, hurried: Callable[[], bool]) -> None:
        begin, start, chunk = self.nimg, time.monotonic(), self.chunk
        while self.nimg < chunk.images and not hurried():
            batch = self._next_batch()
            self.sofar = tuple(map(add, self.sofar, batch)) if self.sofar else batch
            if time.monotonic() - start >= SAVED:
                break
        if self.sofar and self.nimg > begin:
            if self.nimg == chunk.images and len(self.sofar[0].features) > chunk.neighbours > 0:
                self.sofar = tuple(
                    replace(space, radii=neighbour_radii(space.features, chunk.neighbours)) for space in self.sofar
                )
            self.checkpoints.save(to_state(self.sofar))

    def _next_batch(self) -> tuple[SampleStatistics, ...]:
        chunk, begin = self.chunk, self.chunk.begin + self.nimg
        end = min(begin + chunk.basis.config.batch, chunk.end)
        numbers, start = chunk.source.numbers(chunk.total)[begin:end], time.perf_counter()
        samples = self.make(numbers)
        seconds = time.perf_counter() - start
        keep = chunk.source.kept(numbers, chunk.total)
        return tuple(replace(statistics_of(net, samples, numbers, keep), seconds=seconds) for net in self.nets)


@lru_cache(maxsize=1)
def opened(source: Source, data: DataConfig, device: str) -> Make:
    """A process that measures one chunk after the other reads networks once."""
    return source.open(data, torch.device(device))


@lru_cache(maxsize=1)
def _nets(config: EvaluationConfig, data: DataConfig, cache: str, codec: CodecConfig) -> tuple[FeatureNet, ...]:
    loaded, store, seen = load_data(data), Store(cache), load_codec(codec)
    return tuple(load_features(name, loaded, store, seen, config.files) for name in config.spaces)
