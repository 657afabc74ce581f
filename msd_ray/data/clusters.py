"""The samples of another format under the classes of a k-means, for data whose classes nobody named: the pseudo-classes
of self-guided diffusion (arXiv 2210.06462)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from msd_ray.conditions.kmeans import balanced_centres
from msd_ray.conditions.rules import Nearest
from msd_ray.data.registry import DataConfig, identity, load_data
from msd_ray.data.source import CHUNK, DataSet, Split
from msd_ray.errors import UserError, one_line
from msd_ray.own_code import imported, is_own
from msd_ray.ranges import Count, Seed
from msd_ray.rng import derived_seed
from msd_ray.storage import Store, digest, read_file, read_manifest, write_bundle
from msd_ray.validation import made_of

NAME, COMPONENTS = "clusters", "components"
COMPARED = 20_000
"""Samples, evenly spread, of which components and centres are made."""
FILE = "classes.safetensors"
_VERSION = 1  # to be raised when the same samples get other classes
Features = Callable[[Tensor], NDArray[np.float32]]
"""Of samples [B, ...] as networks see them: [B, d]."""


@dataclass(frozen=True)
class Clusters:
    """of: the data, as `data` of a recipe names it; its own classes are forgotten. k: how many classes there are to be.
    features: what k-means compares: `components`, the first `dimensions` principal components of the samples, or
    `module:function`, which is called with samples [B, ...] and gives [B, d]. folder: where the classes are kept; each
    run has its own if none is said."""

    k: Count = 10
    of: dict[str, Any] = field(default_factory=lambda: {"name": "digits"}, hash=False)
    features: str = COMPONENTS
    dimensions: Count = 32
    seed: Seed = 0
    folder: str = ""

    def __post_init__(self) -> None:
        if self.features != COMPONENTS and not is_own(self.features):
            raise ValueError(f"features must be {COMPONENTS}, or your own module:function, not {self.features}")
        made_of(DataConfig, self.of, "of")

    @property
    def config(self) -> DataConfig:
        """Of the data that is clustered."""
        return made_of(DataConfig, self.of)

    @property
    def said(self) -> list[Any]:
        """All that the classes follow from."""
        return [_VERSION, identity(self.config), self.k, self.features, self.dimensions, self.seed]

    def load(self) -> DataSet:
        """Under the classes that the folder has, or else under those that k-means finds. Raises UserError where there
        are fewer samples than classes, or the folder has classes of something else."""
        data, said = load_data(self.config), self.said
        classes = _kept(self.folder, said) or self._found(data)
        hashes = [sha256(each.numpy().tobytes()).hexdigest() for each in classes]
        train, held_out = (
            replace(split, condition=_spread(split, each))
            for split, each in zip((data.train, data.held_out), classes, strict=True)
        )
        return DataSet(train, held_out, tuple(f"cluster {i}" for i in range(self.k)), digest([said, hashes]))

    def _found(self, data: DataSet) -> tuple[Tensor, Tensor]:
        """The class of each sample that is trained on, and of each that is held out."""
        some = data.train.thinned(COMPARED)
        if self.k > len(some):
            raise UserError(f"data.options.k: {len(some)} samples cannot have {self.k} classes")
        features = self._features(some)
        seed = derived_seed("clusters", self.seed)
        rule = Nearest(*balanced_centres(_of_all(some, features).astype(np.float32), self.k, seed))
        train, held_out = (_nearest(split, features, rule) for split in (data.train, data.held_out))
        if len(set(train.tolist())) < self.k:
            raise UserError(f"data.options.k: k-means finds fewer than {self.k} clusters in these samples; set k lower")
        return train, held_out

    def _features(self, some: Split) -> Features:
        if is_own(self.features):
            return _own(self.features)
        from sklearn.decomposition import PCA  # here, because it is slow to import and rarely needed

        rows = some.all().x.flatten(1).double().numpy()
        found = PCA(min(self.dimensions, *rows.shape), svd_solver="covariance_eigh").fit(rows)
        return lambda x: cast(NDArray[np.float32], found.transform(x.flatten(1).double().numpy()).astype(np.float32))


def keep_classes(config: DataConfig) -> None:
    """Writes the classes of clustered data to their folder, where there are none yet, so that all who read that folder
    have the same ones."""
    if config.name == NAME and config.folder and _kept(config.folder, said := Clusters(**config.settings).said) is None:
        data = load_data(config)
        tensors = {"train": data.train.classes.contiguous(), "held_out": data.held_out.classes.contiguous()}
        write_bundle(Store(config.folder), {"said": said}, [(FILE, save(tensors))])


def _kept(folder: str, said: list[Any]) -> tuple[Tensor, Tensor] | None:
    """What the folder has for the data and options that are `said`; None where it has nothing."""
    if not folder:
        return None
    store = Store(folder)
    try:
        manifest = read_manifest(store)
    except FileNotFoundError:
        return None
    if digest([manifest.body.get("said")]) != digest([said]):
        raise UserError(f"{store.uri} has classes of other data or options; choose another --run-dir or data.folder")
    found = load(read_file(store, manifest, FILE))
    return found["train"], found["held_out"]


def _own(name: str) -> Features:
    function = imported(name, "data.options.features")

    def features(x: Tensor) -> NDArray[np.float32]:
        try:
            found = np.asarray(function(x), dtype=np.float32)
        except Exception as error:  # whatever the user's module does
            raise UserError(f"data.options.features: {name} gives no features: {one_line(error)}") from None
        if found.ndim != 2 or len(found) != len(x) or not np.isfinite(found).all():
            raise UserError(f"data.options.features: {name} must give finite numbers [{len(x)}, d]")
        return found

    return features


def _of_all(split: Split, features: Features) -> NDArray[np.float32]:
    return np.concatenate([features(split.take(part).x) for part in torch.split(torch.arange(len(split)), CHUNK)])


def _nearest(split: Split, features: Features, rule: Nearest) -> Tensor:
    """The class of each sample of the split, [N]."""
    if not len(split):
        return torch.zeros(0, dtype=torch.int64)
    costs = rule.costs((), _of_all(split, features).astype(np.float64))
    return torch.from_numpy(costs.argmin(axis=1))


def _spread(split: Split, classes: Tensor) -> Tensor:
    """The classes [N] of a split's samples, for all of its rows."""
    if split.own is None:
        return classes
    condition = torch.zeros_like(split.condition, dtype=torch.int64)
    condition[split.own] = classes
    return condition
