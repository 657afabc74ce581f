from typing import Any

import pytest
from baselines import COLUMNS, aggregate, markdown

FACTS = {"date": "2026-01-02", "cpu": "Some CPU", "cpus": 2, "versions": {"python": "3.11.0", "torch": "2.13.0"}}
COMMAND = "python benchmarks/baselines.py --seeds 0 1 2"


def record(name: str, n: int = 100, **values: Any) -> dict[str, Any]:
    return {"name": name, "n": n, **dict.fromkeys(COLUMNS), **values}


def runs() -> list[list[dict[str, Any]]]:
    return [
        [record("ensemble", fid=fid, kid=0.001, nfe=1, agreement=agreement), record("student 0 (class 0)", 10, fid=9.0)]
        for fid, agreement in [(1.0, 0.5), (2.0, None), (6.0, 0.7)]
    ]


def test_mean_and_sample_standard_deviation_over_seeds() -> None:
    table = aggregate(runs())
    assert list(table) == ["ensemble", "student 0 (class 0)"]
    assert table["ensemble"]["fid"] == {"mean": 3.0, "sd": pytest.approx(7**0.5), "n": 3}
    assert table["ensemble"]["samples"] == [100]
    assert table["student 0 (class 0)"]["fid"] == {"mean": 9.0, "sd": 0.0, "n": 3}


def test_missing_values_are_left_out() -> None:
    row = aggregate(runs())["ensemble"]
    assert row["agreement"] == {"mean": pytest.approx(0.6), "sd": pytest.approx(0.02**0.5), "n": 2}
    assert row["precision"] is None


def test_values_that_are_not_finite_count_as_missing() -> None:
    row = aggregate([[record("x", fid=float("nan"))], [record("x", fid=2.0)]])["x"]
    assert row["fid"] == {"mean": 2.0, "sd": None, "n": 1}


def test_a_row_that_one_seed_lacks_is_kept() -> None:
    table = aggregate([[record("a", fid=1.0)], [record("a", fid=3.0), record("b", fid=5.0)]])
    assert table["a"]["fid"]["n"] == 2
    assert table["b"]["fid"]["n"] == 1


def test_the_page_says_how_it_was_made() -> None:
    page = markdown(aggregate(runs()), "digits", COMMAND, [0, 1, 2], FACTS)
    for fact in (COMMAND, "2026-01-02", "Some CPU", "2 logical CPUs", "torch 2.13.0", "seeds: 0, 1, 2", "FID@n"):
        assert fact in page


def test_the_page_shows_mean_and_deviation() -> None:
    lines = markdown(aggregate(runs()), "digits", COMMAND, [0, 1, 2], FACTS).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert "| 3 ± 2.6 |" in rows["ensemble"]
    assert "| 1 ± 0 |" in rows["ensemble"]  # KID is shown times 1000
    assert "| - |" in rows["ensemble"]
    assert {line.count("|") for line in rows.values()} == {14}
