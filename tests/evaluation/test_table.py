import json
import math
from dataclasses import replace

import pytest

from msd_ray.evaluation import Row, Scores, cells, from_records, headers, remarks, tables, to_records

SCORES = Scores(359, 4.0571, 0.0123, 0.91, 0.876, 0.9, 1.284, 71, features="mine")
ALSO = replace(SCORES, fid=99.0, agreement=None, features="others")
FULL = Row("teacher", SCORES, 1_234_567, 35, 2_000_000, 3725.0, 61.2, 12.345, (ALSO,))
BARE = Row("student 1 (class 3)", Scores(1, math.nan, math.nan, math.nan, math.nan, missing="a single sample"))


def test_cells_are_made_for_people() -> None:
    assert dict(zip(headers(), cells(FULL), strict=True)) == {
        "sampler": "teacher",
        "FID@n": "4.06@359",
        "FID / real": "1.28@71",
        "KID x 1000": "12.30",
        "precision": "0.910",
        "recall": "0.876",
        "agreement": "0.900",
        "parameters": "1.23M",
        "NFE": "35",
        "images": "2M",
        "wall": "1 h 02 min",
        "CPU": "1 min 01 s",
        "ms/image": "12.3",
    }


def test_further_features_have_a_table_of_their_own() -> None:
    (titles, rows), further = tables([FULL, BARE])
    assert titles[1] == "FID@n (mine)" and [row[0] for row in rows] == [FULL.name, BARE.name]
    assert further == (
        ["sampler", "FID@n (others)", "FID / real", "KID x 1000", "precision", "recall"],
        [["teacher", "99.00@359", "1.28@71", "12.30", "0.910", "0.876"]],
    )
    assert len(tables([BARE])) == 1


def test_the_unknown_is_a_dash() -> None:
    assert cells(BARE) == ["student 1 (class 3)"] + ["-"] * 12


def test_a_dash_for_a_score_has_a_reason() -> None:
    assert remarks([FULL, BARE]) == ["student 1 (class 3): a single sample"]
    assert to_records([BARE])[0]["missing"] == "a single sample"


@pytest.mark.parametrize(
    ("parameters", "text"), [(0, "0"), (999, "999"), (1000, "1k"), (45_162, "45.2k"), (3_000_000_000, "3G")]
)
def test_counts(parameters: int, text: str) -> None:
    assert cells(Row("x", BARE.scores, parameters))[7] == text


def test_records_are_json_and_come_back() -> None:
    text = json.dumps(to_records([FULL, BARE]), allow_nan=False)
    full, bare = from_records(json.loads(text))
    assert full == FULL
    assert bare.name == BARE.name and bare.scores.n == 1 and math.isnan(bare.scores.fid)
    assert math.isnan(bare.scores.fid_ratio) and bare.scores.missing == "a single sample"
    assert bare.scores.agreement is None and bare.parameters is None


def test_scores_that_a_recipe_asks_for_are_columns_only_where_they_are_known() -> None:
    asked = replace(FULL, scores=replace(SCORES, retrieval=0.25), also=(replace(ALSO, retrieval=0.5),))
    (titles, rows), (further, cells_of_further) = tables([asked, BARE])
    assert dict(zip(titles, rows[0], strict=True))["retrieval"] == "0.250"
    assert dict(zip(titles, rows[1], strict=True))["retrieval"] == "-"
    assert dict(zip(further, cells_of_further[0], strict=True))["retrieval"] == "0.500"
    assert all("retrieval" not in titles for titles, _ in tables([FULL, BARE]))
    assert from_records(to_records([asked]))[0] == asked


def test_rows_that_were_kept_before_a_score_was_known_are_still_read() -> None:
    old = to_records([FULL])[0]
    del old["retrieval"]
    assert from_records([old]) == [FULL]
    del old["fid"]
    with pytest.raises(KeyError, match="fid"):
        from_records([old])
