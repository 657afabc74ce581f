"""The nodes of a cluster, as a file describes them or as this machine is one."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from msd_ray.errors import UserError
from msd_ray.recipes.keys import suggestion
from msd_ray.recipes.load import read_mapping, validated


@dataclass(frozen=True)
class NodeKind:
    """Nodes that are alike. count: how many. cpus, gpus: that Ray counts on each. speed: of one of its GPUs (or CPUs,
    where students have no GPU) in those of the hardware that the steps are measured on. price: of a node per hour.
    joins_hours, leaves_hours: after the beginning; None for one that stays. It leaves without notice."""

    name: str
    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    speed: float = 1.0
    price: float = 0.0
    joins_hours: float = 0.0
    leaves_hours: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.speed <= 0:
            raise ValueError("count must be at least 1 and speed above 0")
        if min(self.cpus, self.gpus, self.price, self.joins_hours) < 0:
            raise ValueError("cpus, gpus, price and joins_hours must not be negative")
        if self.leaves_hours is not None and self.leaves_hours <= self.joins_hours:
            raise ValueError(f"leaves_hours ({self.leaves_hours:g}) must be above joins_hours ({self.joins_hours:g})")

    def hours_until(self, end: float) -> float:
        """That each is there before `end` hours have passed."""
        left = end if self.leaves_hours is None else min(end, self.leaves_hours)
        return max(0.0, left - self.joins_hours)

    def each(self) -> Iterator["NodeKind"]:
        """The nodes one by one."""
        for i in range(self.count):
            yield dataclasses.replace(self, count=1, name=f"{self.name}-{i}" if self.count > 1 else self.name)


@dataclass(frozen=True)
class Cluster:
    """nodes: the kinds, each under a name of its own."""

    nodes: tuple[NodeKind, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        names = [node.name for kind in self.nodes for node in kind.each()]
        if not names:
            raise ValueError("nodes must list at least one")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two nodes are called {twice!r}")

    def each(self) -> list[NodeKind]:
        """The nodes one by one."""
        return [node for kind in self.nodes for node in kind.each()]


def this_machine() -> Cluster:
    """As a local Ray cluster would see it; Ray is not asked."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Cluster((NodeKind("this machine", cpus=os.cpu_count() or 1, gpus=gpus),))


def read_cluster(path: str) -> Cluster:
    """The cluster that a YAML file describes. Raises UserError, in one line, where there is no such file, a key is
    unknown or a value is wrong."""
    if not Path(path).is_file():
        raise UserError(f"no file {path}: give a YAML file that lists `nodes`, see docs/recipes.md")
    raw = read_mapping(path, Path(path).read_text())
    _check_keys(path, raw)
    return validated(Cluster, path, raw)


def _check_keys(path: str, raw: dict[str, Any]) -> None:
    """Raises UserError for the first key that no description has."""
    known = {f.name for f in dataclasses.fields(NodeKind)}
    for key in raw:
        if key != "nodes":
            raise UserError(f"{path}: unknown key {key}{suggestion(str(key), {'nodes'})}")
    nodes = raw.get("nodes")
    for i, node in enumerate(nodes if isinstance(nodes, list) else []):
        for key in node if isinstance(node, dict) else []:
            if key not in known:
                raise UserError(f"{path}: unknown key nodes.{i}.{key}{suggestion(str(key), known)}")
