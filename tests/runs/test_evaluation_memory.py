"""An evaluation streams: what is in memory at a time does not grow with the number of samples. No Ray, no clock."""

import weakref
from pathlib import Path
from typing import Any

import pytest

from msd_ray.runs import chunks, run_results, sample_sources, scoring
from msd_ray.runs.evaluation_pieces import here
from msd_ray.runs.run_context import RunContext

from .finished import finished

ONE_STEP = ["stages={dm: {objective: dm, images: 160, batch: 16}}", "partition.kind=sequential", "partition.k=2"]
SMALL = [*ONE_STEP, "evaluation.batch=16", "evaluation.kid_subsets=2", "teacher.steps=2"]
KEPT, BATCH = 48, 16


class Alive:
    """How many of some things there are, and were when they were most."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0

    def begins(self, thing: Any, n: int) -> None:
        self.now += n
        self.ever += n
        self.most = max(self.most, self.now)
        weakref.finalize(thing, self._ends, n)

    def _ends(self, n: int) -> None:
        self.now -= n


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Alive]:
    """Samples, their features, features that are kept, and chunks that are read to be added up."""
    alive = {name: Alive() for name in ("samples", "features", "chunks")}
    opened, nets, whole = chunks.opened, chunks._nets, scoring._whole

    def watching_samples(*of: Any) -> Any:
        make = opened(*of)

        def made(numbers: Any) -> Any:
            samples = make(numbers)
            alive["samples"].begins(samples.x.untyped_storage(), len(samples))
            return samples

        return made

    class WatchedNet:
        def __init__(self, net: Any) -> None:
            self.name, self.classify, self._net = net.name, net.classify, net

        def features(self, x: Any) -> Any:
            found = self._net.features(x).copy()
            alive["features"].begins(found, len(found))
            return found

    def watching_chunks(chunk: Any) -> Any:
        found = whole(chunk)
        for space in found:
            alive["chunks"].begins(space, 1)
        return found

    monkeypatch.setattr(chunks, "opened", watching_samples)
    monkeypatch.setattr(chunks, "_nets", lambda *of: tuple(map(WatchedNet, nets(*of))))
    monkeypatch.setattr(scoring, "_whole", watching_chunks)
    monkeypatch.setattr(sample_sources, "KEPT", KEPT)
    return alive


@pytest.mark.parametrize("samples", [400, 1600])
def test_what_is_in_memory_does_not_grow_with_the_samples(
    samples: int, watched: dict[str, Alive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))
    run = finished(tmp_path / "run", [*SMALL, f"evaluation.samples={samples}"])
    kept: list[int] = []

    def complete(pieces: list[Any]) -> None:
        here(pieces)
        kept.extend(len(p.measured()[0].features) for p in pieces if isinstance(p, chunks.Chunk))

    rows = run_results.measured_rows(RunContext.of_run(run.store, []), complete, lambda _: None)
    assert next(row for row in rows if row.name == "ensemble").scores.n == samples
    assert watched["samples"].ever > 2 * samples and watched["samples"].most <= 2 * BATCH
    assert watched["features"].most <= 2 * BATCH
    assert watched["chunks"].ever > 30 and watched["chunks"].most <= 5  # real, held out, the sum, and one more
    assert 0 < max(kept) <= KEPT
