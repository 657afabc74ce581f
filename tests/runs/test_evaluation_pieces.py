"""Evaluation as pieces of work: whoever does them, and whoever dies meanwhile, the figures are the same. No Ray."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.errors import TrainingError, UserError
from msd_ray.evaluation import Row, classifier, from_records, remarks, tables, to_records
from msd_ray.evaluation.digits_net import DIGITS
from msd_ray.runs import chunks, rows, run_report, run_results, sample_sources
from msd_ray.runs.chunks import Chunk
from msd_ray.runs.evaluation_pieces import Complete, EvaluationPiece, here
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.scoring import Scoring
from msd_ray.training.checkpoints import Checkpoints

from .finished import TINY, finished

ONE_STEP = ["stages={dm: {objective: dm, images: 160, batch: 16}}", "partition.kind=sequential"]
SMALL = [*ONE_STEP, "evaluation.samples=200", "evaluation.batch=16", "teacher.steps=3"]
FEW = [*ONE_STEP, "partition.k=4", "evaluation.neighbours=2"]
Fresh = Callable[[str], Path]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fresh:
    """fresh(name) makes an empty cache and returns its path."""

    def make(name: str) -> Path:
        monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / name))
        return tmp_path / name

    return make


def table(context: RunContext, complete: Complete) -> list[Row]:
    return run_results.measured_rows(RunContext.of_run(context.store, []), complete, lambda _: None)


def scores(rows: list[Row]) -> dict[str, Any]:
    return {row.name: row.scores for row in rows}


@pytest.fixture
def one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "SAVED", 0.0)


class Mortal:
    """Two processes that take pieces at random and die at random, some before they have kept what they did."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng, self.deaths = random.Random(seed), 0
        save = Checkpoints.save

        def perhaps(checkpoints: Checkpoints, state: Any) -> None:
            if self.rng.random() < 0.1:
                raise OSError("killed")
            save(checkpoints, state)

        monkeypatch.setattr(Checkpoints, "save", perhaps)

    def __call__(self, pieces: list[EvaluationPiece]) -> None:
        opened: dict[int, Any] = {}
        left = set(range(len(pieces)))
        while left:
            piece = self.rng.choice(sorted(left))
            try:
                opened.setdefault(piece, pieces[piece].open()).advance(lambda: False)
                if self.rng.random() < 0.1:
                    raise OSError("killed after it saved")
            except OSError:
                opened.pop(piece, None)
                self.deaths += 1
                continue
            if opened[piece].nimg == pieces[piece].images:
                left.remove(piece)


@pytest.mark.usefixtures("one_batch_at_a_time")
def test_the_figures_do_not_depend_on_who_measures_and_who_dies(
    tmp_path: Path, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = finished(tmp_path / "run", SMALL)
    fresh("undisturbed")
    undisturbed = scores(table(context, here))
    for seed in range(2):
        fresh(f"killed-{seed}")
        with monkeypatch.context() as patch:
            mortal = Mortal(seed, patch)
            assert scores(table(context, mortal)) == undisturbed
        assert mortal.deaths > 5


@pytest.mark.usefixtures("one_batch_at_a_time")
def test_a_command_that_is_killed_goes_on_where_it_stopped(
    tmp_path: Path, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, done = finished(tmp_path / "run", SMALL), list[int]()
    fresh("undisturbed")
    undisturbed = scores(table(context, here))
    cache = fresh("killed")

    def counted(measuring: Any) -> Any:
        done.append(1)
        if len(done) == 45:  # in the middle of the teacher's samples
            raise KeyboardInterrupt
        return batch(measuring)

    batch = chunks.OpenChunk._next_batch
    monkeypatch.setattr(chunks.OpenChunk, "_next_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        table(context, here)
    assert [path for path in cache.iterdir() if path.name.startswith("samples-")]
    assert scores(table(context, here)) == undisturbed
    real, generated = 2 * (16 + 4), 13 + 2 * 7  # all classes and each student's; teacher and two parts
    assert len(done) == real + generated + 1  # nothing was measured twice
    assert not [path for path in cache.iterdir() if path.name.startswith("samples-")]


def test_samples_are_made_once_and_scored_in_all_features(
    tmp_path: Path, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh("cache")
    net = classifier.untrained(DIGITS, RunContext.of("digits", [], None).data).eval()
    monkeypatch.setattr(classifier, "load_or_train", lambda kind, data, cache: net)
    small = ["partition.k=2", "evaluation.samples=40", "evaluation.kid_subsets=2", "teacher.steps=2", *ONE_STEP]
    both = finished(tmp_path / "both", [*small, "evaluation.features=identity", "evaluation.also=[digits]"], "digits")
    rows, made = table(both, here), list[str]()

    def heard(pieces: list[EvaluationPiece]) -> None:
        made.extend(piece.row for piece in pieces if isinstance(piece, Chunk))
        here(pieces)

    for i, features in enumerate(("identity", "digits")):
        alone = table(finished(tmp_path / features, [*small, f"evaluation.features={features}"], "digits"), heard)
        assert [(row.scores, *row.also)[i] for row in rows] == [row.scores for row in alone]
        assert {row.scores.features for row in alone} == {features} and made.count("teacher") == i + 1
    (titles, _), (further, cells) = tables(rows)
    assert (titles[1], further[1]) == ("FID@n (identity)", "FID@n (digits)")
    assert [row[0] for row in cells] == [row.name for row in rows]
    assert from_records(json.loads(json.dumps(to_records(rows)))) == rows


def test_fids_may_be_measured_against_statistics_from_a_file(tmp_path: Path, fresh: Fresh) -> None:
    fresh("cache")
    small = ["partition.k=2", "evaluation.samples=40", "evaluation.kid_subsets=2", *ONE_STEP]
    own = scores(table(finished(tmp_path / "own", small), here))
    said = run_results.make_reference(TINY, [], tmp_path / "ref.npz", here)
    assert said.endswith("ref.npz: identity, 2 features of 256 images")
    given = [*small, f"evaluation.reference={tmp_path / 'ref.npz'}"]
    same = scores(table(finished(tmp_path / "given", given), here))
    assert same["ensemble"].fid == pytest.approx(own["ensemble"].fid, rel=1e-6)
    with np.load(tmp_path / "ref.npz") as arrays:
        np.savez(tmp_path / "ref.npz", mu=arrays["mu"] + 10, sigma=arrays["sigma"])
    moved = scores(table(finished(tmp_path / "moved", given), here))
    assert moved["ensemble"].fid > own["ensemble"].fid + 100 and moved["ensemble"].kid == own["ensemble"].kid
    student = next(name for name in own if name.startswith("student 0"))
    assert moved[student] == own[student]  # judged against real samples of its own classes
    with pytest.raises(UserError, match=r"of 2 features, but those of evaluation.features are 64"):
        run_results.evaluate_uri(str(tmp_path / "moved"), ["evaluation.features=digits"], nobody, lambda _: None)


def test_features_are_kept_of_some_samples_only(tmp_path: Path, fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh("all")
    context, kept = finished(tmp_path / "run", SMALL), list[int]()
    every = scores(table(context, here))
    fresh("some")
    monkeypatch.setattr(sample_sources, "KEPT", 60)

    def held(pieces: list[EvaluationPiece]) -> None:
        here(pieces)
        kept.extend(len(piece.measured()[0].features) for piece in pieces if isinstance(piece, Chunk))

    some = scores(table(context, held))
    assert max(kept) == 60 and some["ensemble"].n == 200
    assert {name: row.fid for name, row in some.items()} == {name: row.fid for name, row in every.items()}


def nobody(pieces: list[EvaluationPiece]) -> None:
    raise AssertionError(f"measured again: {pieces}")


def test_rows_are_measured_once_and_shared_by_runs_of_one_teacher(tmp_path: Path, fresh: Fresh) -> None:
    fresh("cache")
    first = finished(tmp_path / "first", SMALL)
    rows = table(first, here)
    assert table(first, nobody) == rows
    asked: list[str] = []

    def heard(pieces: list[EvaluationPiece]) -> None:
        asked.extend(piece.row for piece in pieces)
        here(pieces)

    second = finished(tmp_path / "second", [*SMALL, "partition.k=4"])
    again = table(second, heard)
    assert again[:2] == rows[:2]  # held-out data and the teacher
    assert not {"teacher", "real, held out"} & set(asked)
    assert {"real samples", "ensemble"} <= set(asked)
    table(finished(tmp_path / "third", [*SMALL, "evaluation.samples=100"]), heard)
    assert "teacher" in asked


def test_another_evaluation_of_the_teacher_may_finish_first_and_tidy_up(tmp_path: Path, fresh: Fresh) -> None:
    fresh("cache")
    ours, theirs = finished(tmp_path / "ours", SMALL), finished(tmp_path / "theirs", [*SMALL, "partition.k=4"])

    def overtaken(pieces: list[EvaluationPiece]) -> None:
        opened = [piece.open() for piece in pieces]
        if isinstance(pieces[0], Scoring):
            table(theirs, here)
        for piece, it in zip(pieces, opened, strict=True):
            while it.nimg < piece.images:
                it.advance(lambda: False)

    rows = table(ours, overtaken)
    assert rows[:2] == table(theirs, nobody)[:2]


def test_a_damaged_shard_is_measured_again(tmp_path: Path, fresh: Fresh) -> None:
    context, cache = finished(tmp_path / "run", SMALL), fresh("cache")
    undisturbed = scores(table(context, here))
    for path in cache.glob("real-*/*/*/measured-0.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    for path in cache.glob("row-*/manifest.json"):
        path.write_bytes(path.read_bytes()[:-20])

    assert scores(table(context, here)) == undisturbed
    for path in cache.glob("row-*/manifest.json"):
        path.write_bytes(path.read_bytes()[:-20])

    def losing(pieces: list[EvaluationPiece]) -> None:
        """A node whose cache is its own."""
        here([piece for piece in pieces if not isinstance(piece, Chunk)])

    with pytest.raises(TrainingError, match="that all nodes share"):
        table(context, losing)


def test_a_hurried_piece_measures_nothing_and_keeps_what_it_had(tmp_path: Path, fresh: Fresh) -> None:
    fresh("cache")
    context, seen = finished(tmp_path / "run", SMALL), list[int]()

    def hurried(pieces: list[EvaluationPiece]) -> None:
        for piece in pieces:
            if isinstance(piece, Chunk):
                opened = piece.open()
                opened.advance(lambda: True)
                seen.append(opened.nimg)
        here(pieces)

    table(context, hurried)
    assert set(seen) == {0}


def test_too_few_samples_are_said_to_be_too_few(tmp_path: Path, fresh: Fresh) -> None:
    fresh("cache")
    context = finished(tmp_path / "run", [*FEW, "evaluation.samples=4"])
    rows = table(context, here)
    said = remarks(rows)
    assert said[0].startswith("student 0 (class ring 0): FID and KID need 2 samples on each side, here 1; precision")
    assert len(said) == 4
    fewer = finished(tmp_path / "fewer", [*FEW, "evaluation.samples=3"])
    assert "student 3 (class ring 3): none of the 3 samples is of its classes" in remarks(table(fewer, here))


def test_a_process_that_measures_takes_what_the_recipe_says(tmp_path: Path, fresh: Fresh) -> None:
    fresh("cache")
    seen: list[tuple[float, float]] = []

    def complete(pieces: list[EvaluationPiece]) -> None:
        seen.extend((p.basis.cluster.cpus_per_student, p.basis.cluster.gpus_per_student) for p in pieces)
        here(pieces)

    table(finished(tmp_path / "run", [*SMALL, "cluster.cpus_per_student=0.3", "evaluation.cpus=1.0"]), complete)
    assert set(seen) == {(1.0, 0.0)}
    seen.clear()
    table(finished(tmp_path / "other", [*SMALL, "evaluation.cpus=0.5", "evaluation.samples=64"]), complete)
    assert set(seen) == {(0.5, 0.0)}


@pytest.mark.parametrize("ids", [[0, 2], [0]])
def test_a_report_shows_evenly_spread_classes_where_there_are_many(
    ids: list[int], tmp_path: Path, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second student owns classes 2 and 3, so that it may have none to show."""
    context = finished(tmp_path / "run", [*SMALL, "partition.k=2"])
    fresh("all")
    everything = run_results._drawings(context)
    here(everything)
    monkeypatch.setattr(rows, "MOST_SHOWN", len(ids))
    fresh("few")
    few = run_results._drawings(context)
    here(few)
    for some, whole in zip(few, everything, strict=True):
        kept, all_of_them = some.kept(), whole.kept()
        assert kept is not None and all_of_them is not None
        assert some.images == len(ids) * rows.SHOWN_PER_CLASS
        assert torch.allclose(kept, all_of_them[ids], atol=1e-5)  # made in other batches
    drawn = run_results._drawn(few)
    assert drawn and f"{context.store.uri}/samples.png" in run_report.write_all(context, [], drawn)
    grids = run_report._grids(context, *drawn)
    assert (list(grids.labels), list(grids.owners)) == ([f"ring {i}" for i in ids], [i // 2 for i in ids])


def test_a_report_shows_no_more_samples_than_a_row_has(tmp_path: Path) -> None:
    few, fewest = (
        run_results._drawings(finished(tmp_path / str(n), [*FEW, f"evaluation.samples={n}"]))[0] for n in (9, 3)
    )
    assert (few.ids, few.each) == ((0, 1, 2, 3), 2)
    assert (fewest.ids, fewest.each) == ((0, 1, 2), 1)
    assert rows.shown(1000, 50_000) == tuple(range(0, 1000, 25))
