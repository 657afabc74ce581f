"""Which recipes may go on in a run directory."""

from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.recipes import load_recipe
from msd_ray.runs.directory import keep_recipe, refuse_other_recipe
from msd_ray.storage import Store


@pytest.mark.parametrize(
    "change",
    ["cluster.pool.max_replicas=3", "cluster.policy=sequential", "cluster.teacher=local", "evaluation.samples=99"],
)
def test_what_leaves_the_weights_alone_may_change(change: str, tmp_path: Path) -> None:
    keep_recipe(Store(str(tmp_path)), load_recipe("digits"))
    refuse_other_recipe(Store(str(tmp_path)), load_recipe("digits", [change]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seed=1", r"seed \(there 0, here 1\)"),
        ("training.shards=2", r"training\.shards \(there 1, here 2\)"),
        ("cluster.pool.wire=bf16", r"cluster\.pool\.wire \(there fp32, here bf16\)"),
        ("cluster.pool.deterministic=false", r"cluster\.pool\.deterministic \(there True, here False\)"),
    ],
)
def test_what_changes_weights_is_refused_and_named(change: str, named: str, tmp_path: Path) -> None:
    keep_recipe(Store(str(tmp_path)), load_recipe("digits"))
    with pytest.raises(UserError, match=f"holds a run with another {named}; choose another --run-dir"):
        refuse_other_recipe(Store(str(tmp_path)), load_recipe("digits", [change]))
