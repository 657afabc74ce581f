"""Which student is asked for what."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd_ray.ensemble import read_description
from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.request import ImageRequest, Limits, checked
from msd_ray.serving.service.versions import Traffic, Version
from msd_ray.storage import Store

from .asking import routed
from .ensembles import POINTS, saved


@pytest.fixture(scope="module")
def version(tiny: str) -> Version:
    return describe(tiny)


def only(version: Version) -> Traffic:
    return Traffic((version,), (1.0,))


def test_every_image_is_asked_for_once_and_from_its_owner(version: Version, tiny: str) -> None:
    classes, seeds = [3, 1, 4, 1, 5, 9, 2, 6], list(range(8))
    out = routed(ImageRequest(tuple(classes), tuple(seeds)), only(version))
    asked = {
        item.index: (part_request.part, item.class_id, item.seed) for part_request in out for item in part_request.items
    }
    owners = read_description(Store(tiny)).partition.router.part_of(torch.tensor(classes)).tolist()
    assert asked == {i: (owners[i], classes[i], seeds[i]) for i in range(8)}
    assert sum(len(part_request.items) for part_request in out) == 8
    assert len(out) == len(set(owners))


def test_labels_are_classes_too(version: Version) -> None:
    (part_request,) = routed(ImageRequest(("digit 7",), (0,)), only(version))
    assert part_request.sample_ids == [(7, 0)]


def test_points_travel_as_numbers(tmp_path: Any) -> None:
    points = describe(saved(tmp_path, spec=POINTS))
    assert routed(ImageRequest((0,), (0,)), only(points))[0].format == "float32"
    with pytest.raises(Refusal, match="have no pictures"):
        routed(ImageRequest((0,), (0,), "png"), only(points))


def test_a_version_says_all_that_a_front_needs(version: Version) -> None:
    assert Traffic.from_json(only(version).to_json()) == only(version)
    assert sorted(c for part in range(len(version.parts)) for c in version.ids_of(part)) == list(range(10))


def test_equal_students_are_the_same_version_wherever_they_lie(tmp_path: Any) -> None:
    one, other = describe(saved(tmp_path / "a")), describe(saved(tmp_path / "b", weights=(0, 7, 2)))
    assert [a == b for a, b in zip(one.parts, other.parts, strict=True)] == [True, False, True]
    assert one.name != other.name
    assert describe(saved(tmp_path / "c")).name == one.name


def test_students_that_share_the_levels_are_one_part(tmp_path: Any) -> None:
    version = describe(saved(tmp_path, k=2, timesteps=2))
    assert len(version.parts) == 2
    assert version.students_of(1) == (2, 3)
    assert [s.sigma_low for s in version.students] == [0.0, version.students[1].sigma_low] * 2


def weighted(version: Version, *weights: float) -> Traffic:
    return Traffic(tuple(replace(version, name=str(i)) for i in range(len(weights))), weights)


def test_the_traffic_is_split_by_weight(version: Version) -> None:
    traffic, n = weighted(version, 0.2, 0.8), 4000
    share = sum(traffic.chosen(seed).name == "0" for seed in range(n)) / n
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / n) ** 0.5


@given(seed=st.integers(0, 2**63 - 1), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_growing_version_only_gains_seeds(version: Version, seed: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    before, after = weighted(version, low, 1 - low), weighted(version, high, 1 - high)
    assert before.chosen(seed).name != "0" or after.chosen(seed).name == "0"


def test_a_new_version_takes_its_weight_from_the_others(version: Version) -> None:
    canary = only(version).with_version(replace(version, name="b"), 0.1)
    assert [v.name for v in canary.versions] == ["b", version.name]
    assert canary.weights == (0.1, 0.9)
    whole = canary.with_version(replace(version, name="b"), 1.0)
    assert whole.weights == (1.0, 0.0)
    assert whole.version("") == whole.versions[0]


def test_traffic_survives_strict_json(version: Version) -> None:
    assert version.students[0].sigma_high == math.inf
    traffic = weighted(version, 0.5, 0.5)
    assert Traffic.from_json(json.loads(json.dumps(traffic.to_json(), allow_nan=False))) == traffic


@pytest.mark.parametrize(
    ("weights", "before"),
    [((1.0,), None), ((1.0, 0.0, 0.0), "1"), ((0.5, 0.1, 0.4), "2"), ((0.0, 1.0, 0.0), "1"), ((0.2, 0.4, 0.4), "1")],
)
def test_a_roll_back_goes_to_what_most_of_the_others_traffic_goes_to(
    version: Version, weights: tuple[float, ...], before: str | None
) -> None:
    found = weighted(version, *weights).before
    assert (found and found.name) == before


def test_versions_with_traffic_are_kept_and_the_oldest_without_go(version: Version) -> None:
    names = [v.name for v in weighted(version, 1.0, 0.0, 0.0, 0.0).kept(2).versions]
    assert names == ["0", "1"]
    assert len(weighted(version, 0.4, 0.0, 0.3, 0.3).kept(2).versions) == 3
    assert [v.name for v in weighted(version, 0.0, 1.0, 0.0).kept(1).versions] == ["0", "1"]  # the newest stays


BAD: list[tuple[Any, str, str]] = [
    ({"conditions": []}, "INVALID_ARGUMENT", "at least one"),
    ({"conditions": [0] * 5}, "INVALID_ARGUMENT", "at most 4 images"),
    ({"seeds": [1]}, "INVALID_ARGUMENT", "one per condition"),
    ({"seeds": [0, -1]}, "INVALID_ARGUMENT", r"seeds\[1\]"),
    ({"seeds": [2**63, 0]}, "INVALID_ARGUMENT", r"seeds\[0\]"),
    ({"format": "gif"}, "INVALID_ARGUMENT", "png, webp, jpeg, float32"),
    ({"conditions": [0, 10]}, "INVALID_ARGUMENT", r"conditions\[1\]: there is no class 10, only 0 to 9"),
    ({"conditions": [-1, 0]}, "INVALID_ARGUMENT", "no class -1"),
    ({"conditions": ["digit 0", "ten"]}, "INVALID_ARGUMENT", r"conditions\[1\]: no class is called 'ten'"),
    ({"version": "x"}, "NOT_FOUND", "no version 'x'"),
]


@pytest.mark.parametrize(("change", "kind", "why"), BAD)
def test_what_cannot_be_is_refused(version: Version, change: dict[str, Any], kind: str, why: str) -> None:
    asked = {"conditions": [0, 1], "seeds": [0, 1], "format": "", "version": "", "limits": Limits(images=4)} | change
    if len(asked["conditions"]) > 2:
        asked["seeds"] = []
    with pytest.raises(Refusal, match=why) as told:
        routed(checked(**asked), only(version))
    assert told.value.kind == kind


def test_seeds_are_drawn_where_none_are_given() -> None:
    drawn = checked([0] * 8, [], "", "", Limits()).seeds
    assert len(set(drawn)) == 8
    assert all(0 <= seed < 2**63 for seed in drawn)
