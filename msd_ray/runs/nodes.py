"""The nodes of a cluster, as a file describes them or as this machine is one."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field

from msd_ray.errors import UserError
from msd_ray.ranges import Amount, Gigabytes, Price, Seconds, Tflops
from msd_ray.recipes.yaml_files import read_yaml, validated

MOST_NODES = 10_000


@dataclass(frozen=True)
class NodeKind:
    """Nodes that are alike. count: how many. cpus, gpus: that Ray counts on each. speed: of one of its GPUs (or CPUs,
    where students have no GPU) in those of the hardware that the steps are measured on. tflops: instead, the 10^12
    floating-point operations per second that it reaches in whole updates. gpu_memory: of each GPU, GB. price: of a
    node per hour. joins_hours, leaves_hours: after the beginning; None for one that stays. It leaves without
    notice."""

    name: str
    count: Annotated[int, Field(ge=1, le=MOST_NODES)] = 1
    cpus: Amount = 1.0
    gpus: Amount = 0.0
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    tflops: Tflops | None = None
    gpu_memory: Gigabytes | None = None
    price: Price = 0.0
    joins_hours: Seconds = 0.0
    leaves_hours: Seconds | None = None

    def __post_init__(self) -> None:
        if self.tflops is not None and self.speed != 1.0:
            raise ValueError("tflops and speed both say how fast it is: give one of them")
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
class ClusterDescription:
    """nodes: the kinds, each under a name of its own."""

    nodes: tuple[NodeKind, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("nodes must list at least one")
        if (count := sum(kind.count for kind in self.nodes)) > MOST_NODES:
            raise ValueError(f"{count:,} nodes are more than can be planned for: at most {MOST_NODES:,}")
        name, times = Counter(node.name for node in self.each()).most_common(1)[0]
        if times > 1:
            raise ValueError(f"two nodes are called {name!r}")

    def each(self) -> list[NodeKind]:
        """The nodes one by one."""
        return [node for kind in self.nodes for node in kind.each()]


def this_machine() -> ClusterDescription:
    """As a local Ray cluster would see it; Ray is not asked."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    memory = min((torch.cuda.get_device_properties(i).total_memory for i in range(gpus)), default=0) / 1e9
    here = NodeKind("this machine", cpus=os.cpu_count() or 1, gpus=gpus, gpu_memory=memory or None)
    return ClusterDescription((here,))


def read_cluster(path: str) -> ClusterDescription:
    """The cluster that a YAML file describes. Raises UserError, in one line, where there is no such file, a key is
    unknown or a value is wrong."""
    if not os.path.isfile(path):
        raise UserError(f"no file {path}: give a YAML file that lists `nodes`, see docs/recipes.md")
    return validated(ClusterDescription, path, read_yaml(path))
