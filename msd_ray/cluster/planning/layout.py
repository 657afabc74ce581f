"""Where students and teacher pool go on nodes that are described rather than there. No Ray in here."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from msd_ray.cluster.connect import refuse_few, slots_for, times
from msd_ray.cluster.planning.contention import NO_REPLICAS, Replicas
from msd_ray.cluster.planning.simulation import Incident, Node
from msd_ray.errors import UserError
from msd_ray.recipes import ClusterConfig
from msd_ray.runs.nodes import NodeKind

HOUR = 3600.0


@dataclass(frozen=True)
class Layout:
    """nodes: those there at the beginning. incidents: who joins and leaves later. replicas: the teacher pool."""

    nodes: list[Node]
    incidents: list[Incident]
    replicas: Replicas


@dataclass
class _Room:
    """What is free on a node."""

    node: NodeKind
    cpus: float
    gpus: float

    def fits(self, cpus: float, gpus: float, most: int) -> int:
        """How many that need so much have room; at most `most`."""
        bounds = [times(free, each) for free, each in ((self.cpus, cpus), (self.gpus, gpus)) if each]
        return max(0, min([most, *bounds]))

    def take(self, cpus: float, gpus: float) -> None:
        self.cpus, self.gpus = self.cpus - cpus, self.gpus - gpus


def check_fits(students: int, config: ClusterConfig, nodes: Sequence[NodeKind]) -> None:
    """Raises UserError where the nodes there at the beginning have no room for a run, as `train` would. Where the
    autoscaler brings nodes, nothing is known in advance."""
    if config.autoscale:
        return
    there = [node for node in nodes if node.joins_hours == 0]
    resources = {"CPU": sum(n.cpus for n in there), "GPU": sum(n.gpus for n in there)}
    refuse_few(slots_for(students, config, resources), students, config)
    cpus, gpus = _of_student(config)
    if not any(node.slots for node in lay_out(students, config, there).nodes):
        raise UserError(
            f"no node has room for a student ({cpus:g} CPU, {gpus:g} GPU) beside the teacher pool: describe larger "
            f"nodes, or lower cluster.cpus_per_student or cluster.gpus_per_student"
        )


def lay_out(students: int, config: ClusterConfig, nodes: Sequence[NodeKind], hours: float = 0.0) -> Layout:
    """As it would be after so many hours. The pool's first replicas go before the students, more of them where the
    students leave room. It goes on nodes that stay, where it can, and is taken to stay itself.

    Raises UserError where there is no room for a single replica.
    """
    rooms = [_Room(n, n.cpus, n.gpus) for n in nodes if n.joins_hours <= hours and _leaves(n) > hours]
    pool, count = config.pool, Counter[str]()
    if config.teacher == "pool":
        count += _placed(rooms, pool.min_replicas, config)
        if not count:
            raise UserError(
                f"no node has room for a teacher replica ({pool.cpus:g} CPU, {pool.gpus:g} GPU) after {hours:.1f} h"
            )
    slots = _slots(rooms, min(students, config.max_slots or students), config)
    if config.teacher == "pool":
        count += _placed(rooms, pool.max_replicas - pool.min_replicas, config)
    for room in rooms:
        slots[room.node.name] += _fits(room, students - slots[room.node.name], config)
    made = [_node(room.node, slots[room.node.name], config) for room in rooms]
    return Layout(made, _incidents(students, config, nodes, hours), _replicas(count, config, nodes))


def _placed(rooms: list[_Room], replicas: int, config: ClusterConfig) -> Counter[str]:
    """How many replicas each node gets; fewer in all where there is no room."""
    pool, count = config.pool, Counter[str]()

    def rank(room: _Room) -> tuple[int, float, bool]:
        return (
            count[room.node.name] * (pool.placement == "spread"),
            -_leaves(room.node),
            room.node.gpus > 0 and not pool.gpus,
        )

    for _ in range(replicas):
        free = [room for room in rooms if room.fits(pool.cpus, pool.gpus, 1)]
        if not free:
            break
        best = min(free, key=rank)
        best.take(pool.cpus, pool.gpus)
        count[best.node.name] += 1
    return count


def _slots(rooms: list[_Room], wanted: int, config: ClusterConfig) -> Counter[str]:
    """Takes room for the slots that are asked for first."""
    count = Counter[str]()
    for room in rooms:
        count[room.node.name] = n = _fits(room, wanted - count.total(), config)
        room.take(*(n * amount for amount in _of_student(config)))
    return count


def _fits(room: _Room, most: int, config: ClusterConfig) -> int:
    return room.fits(*_of_student(config), most)


def _of_student(config: ClusterConfig) -> tuple[float, float]:
    """The CPUs and GPUs of a student with its fewest workers, on one node."""
    workers = config.workers_per_student[0]
    return workers * config.cpus_per_student, workers * config.gpus_per_student


def _node(kind: NodeKind, slots: int, config: ClusterConfig) -> Node:
    """Ray gives students with a fraction of a GPU as few GPUs as hold them; CPUs are everybody's."""
    gpus = math.ceil(slots * _of_student(config)[1] - 1e-9)
    return Node(kind.name, slots, kind.speed, gpus or kind.cpus)


def _replicas(count: Counter[str], config: ClusterConfig, nodes: Sequence[NodeKind]) -> Replicas:
    if not count:
        return NO_REPLICAS
    capacity = sum(count[node.name] * node.speed for node in nodes)
    apart = config.pool.gpus >= 1 or (config.pool.gpus > 0) != (config.gpus_per_student > 0)
    return Replicas(count, capacity, local=not apart)


def _incidents(students: int, config: ClusterConfig, nodes: Sequence[NodeKind], hours: float) -> list[Incident]:
    found = []
    for kind in nodes:
        node = _node(kind, _fits(_Room(kind, kind.cpus, kind.gpus), students, config), config)
        if kind.joins_hours > hours:
            found.append(Incident((kind.joins_hours - hours) * HOUR, "join", node))
        if hours < _leaves(kind) < math.inf:
            found.append(Incident((_leaves(kind) - hours) * HOUR, "kill", node))
    return found


def _leaves(node: NodeKind) -> float:
    return math.inf if node.leaves_hours is None else node.leaves_hours
