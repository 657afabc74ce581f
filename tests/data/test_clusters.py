"""Pseudo-classes: which sample belongs to which cluster, what of it is kept, and that named classes do not matter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.data import DataConfig, DataSet, identity, load_data
from msd_ray.data.clusters import Clusters, keep_classes
from msd_ray.errors import UserError
from msd_ray.recipes import load_recipe
from msd_ray.runs.plan_description import describe
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_recipe, recipe_of
from msd_ray.storage import Store

from .formats import LABELS, arrays, images


def clustered(k: int, **options: Any) -> DataConfig:
    return DataConfig("clusters", options={"k": k, **options})


def test_each_sample_has_the_nearest_centre_in_the_space_of_the_first_principal_components() -> None:
    """Re-derived in float64: the centres are the means of their clusters, and what each costs more than its distance is
    the same for all samples, so that a price of each cluster explains all choices."""
    data, digits = load_data(clustered(10, dimensions=16)), load_data(DataConfig())
    x = digits.train.all().x.flatten(1).double().numpy()
    middle = x.mean(0)
    _, _, axes = np.linalg.svd(x - middle, full_matrices=False)
    points, labels = (x - middle) @ axes[:16].T, data.train.classes.numpy()
    centres = np.stack([points[labels == c].mean(0) for c in range(10)])
    distances = ((points[:, None] - centres) ** 2).sum(2)
    for a in range(10):
        for b in range(a):
            advantage = distances[:, b] - distances[:, a]
            assert advantage[labels == a].min() > advantage[labels == b].max() - 1e-2
    counts = np.bincount(labels)
    assert counts.sum() == len(digits.train) and counts.max() - counts.min() <= 0.1 * counts.mean()
    held_out = ((digits.held_out.all().x.flatten(1).double().numpy() - middle) @ axes[:16].T)[:, None] - centres
    agree = data.held_out.classes.numpy() == (held_out**2).sum(2).argmin(1)
    assert agree.mean() > 0.9  # all but those that a price moves


def test_clusters_of_digits_are_digits_though_nobody_named_them() -> None:
    data, digits = load_data(clustered(10)), load_data(DataConfig())
    named = digits.train.classes
    purity = sum(int(named[data.train.classes == c].bincount().max()) for c in range(10)) / len(named)
    assert purity > 0.7  # a tenth by chance
    assert torch.equal(data.train.all().x, digits.train.all().x)


def test_the_names_that_somebody_gave_are_never_looked_at(tmp_path: Path) -> None:
    sets = list[DataSet]()
    for labels in (LABELS, LABELS[::-1]):
        where = tmp_path / str(labels[0]) / str(len(sets))
        where.mkdir(parents=True)
        of = arrays(where, images("arrays"), labels)
        sets.append(load_data(clustered(3, of={"name": "arrays", "folder": of.folder})))
    assert torch.equal(sets[0].train.classes, sets[1].train.classes)
    assert sets[0].labels == ("cluster 0", "cluster 1", "cluster 2")


def test_ones_own_features_are_compared() -> None:
    data = load_data(clustered(2, features="a_users_data:brightness"))
    bright = data.train.all().x.flatten(1).mean(1)
    one, other = bright[data.train.classes == 0], bright[data.train.classes == 1]
    assert one.max() <= other.min() or other.max() <= one.min()


def test_kept_classes_are_taken_whatever_kmeans_would_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(clustered(4), folder=str(tmp_path / "classes"))
    before = load_data(config)
    keep_classes(config)
    monkeypatch.setattr(Clusters, "_found", lambda self, data: pytest.fail("k-means was asked again"))
    after = load_data(config)
    assert torch.equal(after.train.classes, before.train.classes) and after.fingerprint == before.fingerprint
    assert identity(config) == identity(replace(config)) and "folder" not in identity(config)
    with pytest.raises(UserError, match="has classes of other data or options"):
        load_data(replace(config, options={**config.options, "k": 5}))


def test_a_split_that_shares_its_rows_with_another_is_clustered_alone(tmp_path: Path) -> None:
    whole = load_data(arrays(tmp_path, images("arrays"), LABELS))
    halves = [replace(whole.train, own=torch.arange(half, 40, 2)) for half in range(2)]
    train, held_out = Clusters(3)._found(replace(whole, train=halves[0], held_out=halves[1]))
    assert train.shape == held_out.shape == (20,) and set(train.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 2000}, r"data\.options\.k: 1442 samples cannot have 2000 classes"),
        ({"k": 0}, r"data\.options\.k: .*greater than or equal to 1"),
        ({"k": 2, "features": "pixels"}, r"data\.options: features must be components, or your own module:function"),
        ({"k": 2, "features": "a_users_data:no_features"}, "must give finite numbers|gives no features"),
        ({"k": 2, "features": "a_users_data:missing"}, r"data\.options\.features: .* cannot be imported"),
        ({"k": 2, "of": {"name": "nothing"}}, "there is no data set 'nothing'"),
        ({"k": 2, "of": {"nickname": "digits"}}, r"unknown key of\.nickname"),
    ],
)
def test_what_cannot_be_clustered_is_told_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        load_data(DataConfig("clusters", options=options))
    assert "\n" not in str(refused.value)


def test_a_run_keeps_its_classes_where_it_lies_and_may_be_moved(tmp_path: Path) -> None:
    old, new = Store(str(tmp_path / "old")), Store(str(tmp_path / "new"))
    recipe = RunContext.of("digits-clusters", [], old.uri).recipe
    assert recipe.data.folder == f"{old.uri}/classes"
    keep_recipe(old, recipe)
    assert recipe_of(old) == recipe
    (tmp_path / "old").rename(tmp_path / "new")
    assert recipe_of(new).data.folder == f"{new.uri}/classes"
    named = RunContext.of("digits-clusters", [f"data.folder={tmp_path}/mine"], old.uri).recipe
    keep_recipe(new, named)
    assert recipe_of(new).data.folder == f"{tmp_path}/mine"


def test_the_plan_says_where_scores_are_in_the_space_of_the_clusters() -> None:
    plan = RunContext.of("digits-clusters", [], None).plan
    assert "scores" not in describe(plan) and plan.labels[:2] == ("cluster 0", "cluster 1")
    same = RunContext.of("digits-clusters", ["evaluation.features=identity"], None).plan
    assert "flatter the students, whose classes are clusters of the same numbers" in describe(same)["scores"]
    assert "scores" not in describe(RunContext.of("digits", ["evaluation.features=identity"], None).plan)
    assert load_recipe("digits-clusters").data.folder == ""
