"""The map of prompts: a prompt lies in the region of its part, wherever a plane can show that."""

import numpy as np
import pytest

from msd_ray.conditions import Partition, PartitionConfig, fit
from msd_ray.conditions.prompt_map import PromptMap, Region, map_of
from msd_ray.conditions.rules import Keywords, Nearest, Quadrants, Rule

from .test_prompts import PROMPTS, prompts


def region_at(drawn: PromptMap, position: tuple[float, ...]) -> int:
    x, y = position
    return int(np.argmin([(r.x - x) ** 2 + (r.y - y) ** 2 + r.weight for r in drawn.regions]))


def of_rule(rule: Rule | None) -> PromptMap:
    assert rule
    return map_of(rule)


@pytest.mark.parametrize(("k", "least"), [(2, 1.0), (3, 1.0), (5, 0.5)])
def test_prompts_lie_in_the_region_of_their_cluster(k: int, least: float) -> None:
    known = prompts()
    partition: Partition = fit(PartitionConfig(k, "kmeans"), known)
    drawn, vectors = of_rule(partition.rule), known.vectors(known.encode(list(PROMPTS))).double().numpy()
    right = [region_at(drawn, drawn.position_of(v)) == p for v, p in zip(vectors, partition.router.owners, strict=True)]
    assert len(drawn.regions) == k and np.mean(right) >= least
    assert of_rule(partition.rule) == drawn


def test_the_plane_keeps_what_tells_centres_apart() -> None:
    """Three corners of a triangle in ten dimensions keep their distances; their middle is the origin."""
    centres = np.eye(3, 10, dtype=np.float32)
    drawn = map_of(Nearest(centres, (0.0, 0.5, 0.0)))
    at = np.array([[r.x, r.y] for r in drawn.regions])
    apart = np.linalg.norm(at[:, None] - at[None], axis=2)
    assert np.allclose(apart, np.sqrt(2) * (1 - np.eye(3)), atol=1e-6) and np.allclose(at.sum(axis=0), 0, atol=1e-6)
    assert np.allclose([r.weight for r in drawn.regions], [0, 0.5, 0], atol=1e-6)
    assert np.allclose(drawn.position_of(centres[1].astype(float)), at[1])


def test_one_centre_is_a_map_as_well() -> None:
    drawn = map_of(Nearest(np.ones((1, 4), dtype=np.float32), (0.0,)))
    assert drawn.regions == (Region(),) and drawn.position_of(np.ones(4)) == (0.0, 0.0)


def test_quadrants_are_those_of_the_plane_of_the_first_two_entries() -> None:
    drawn, vectors = map_of(Quadrants()), np.random.default_rng(0).normal(size=(50, 7))
    parts = Quadrants().costs([""] * 50, vectors).argmin(axis=1)
    assert [region_at(drawn, drawn.position_of(v)) for v in vectors] == parts.tolist()
    assert drawn.position_of(vectors[0]) == tuple(vectors[0, :2])


def test_words_have_no_plane() -> None:
    drawn = map_of(Keywords((("cat", "kitten"), ("dog",))))
    assert drawn.regions == (Region(words=("cat", "kitten")), Region(words=("dog",)), Region())
    assert drawn.position_of(np.zeros(0)) == ()
    assert map_of(Keywords()).regions == (Region(),)
