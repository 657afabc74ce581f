"""Two updates of each objective, and of a teacher, make the numbers that are kept in updates.json.

A change of structure keeps them. Where one fails and the change of numbers is meant, write the file anew with
`python -m tests.golden.write_updates`; then CHANGELOG.md must say which recipes lose their bits, and docs/log.md why,
with what a run of them had before and has after.
"""

import json

import pytest

from msd_ray.objectives import OBJECTIVES, SUM

from .updates import CASES, FILE, all_cases, numbers_of

KEPT = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", all_cases())
def test_the_numbers_are_those_that_are_kept(name: str) -> None:
    found, kept = numbers_of(name), KEPT[name]
    assert found.keys() == kept.keys()
    for key, values in kept.items():
        assert found[key] == pytest.approx(values, rel=1e-9, abs=1e-13), key


def test_every_objective_has_its_numbers_and_no_other_is_kept() -> None:
    assert {case.objective for case in CASES.values()} == {*OBJECTIVES, SUM}
    assert KEPT.keys() == all_cases().keys()
