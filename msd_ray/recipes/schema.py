"""The whole of what a user can say about a run."""

import dataclasses
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from msd_ray.codecs import CodecConfig
from msd_ray.conditions import ConditionsConfig, PartitionConfig
from msd_ray.data import DataConfig
from msd_ray.diffusion import Noise
from msd_ray.errors import UserError
from msd_ray.evaluation.config import EvaluationConfig
from msd_ray.networks import KINDS, Kind, StudentSize, kind_of
from msd_ray.ranges import Amount, Count, CountOrNone, Price, Seconds, Seed
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.teacher_trainer import TeacherConfig


def _network(raw: Any) -> Kind:
    """Raises UserError, which is more than pydantic could say of a choice of classes."""
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        raise UserError(f"network.kind: say which: {', '.join(KINDS)}, or module:Class for your own")
    try:
        return kind_of(raw, "network")
    except ValueError as error:
        raise UserError(str(error)) from None


MOST_CHECKPOINTS = 100_000
"""Of a student: more would take longer to write, list and forecast than to train."""


@dataclass(frozen=True)
class PoolConfig:
    """The teacher pool. cpus, gpus: Ray resources of each replica, fractions allowed; `spread` puts them on different
    nodes where it can. With `deterministic`, and fp32 on the wire, nothing here changes a single weight.

    deterministic: one request per forward pass. Otherwise requests of several students are joined up to max_batch
    images, and the oldest waits at most max_wait_ms for company, which changes last bits. max_queue: requests that wait
    at a replica before it refuses. wire: bf16 halves the bytes of images between students and pool, and rounds them.
    retry_seconds: how long a student looks for a replica that answers. silence_seconds: without an answer, or at one
    request, after which a replica is ended and started anew. scale_*: one replica more where the median
    request waits longer than scale_up_ms, one fewer where less than scale_down_ms, each after scale_seconds of it.
    """

    min_replicas: Count = 1
    max_replicas: Count = 1
    cpus: Amount = 1.0
    gpus: Amount = 0.0
    placement: Literal["pack", "spread"] = "pack"
    deterministic: bool = True
    max_batch: Count = 256
    max_wait_ms: Seconds = 5.0
    max_queue: Count = 64
    wire: Literal["fp32", "bf16"] = "fp32"
    retry_seconds: Seconds = 300.0
    silence_seconds: Annotated[float, Field(gt=0, le=1e9)] = 300.0
    scale_up_ms: Seconds = 100.0
    scale_down_ms: Seconds = 10.0
    scale_seconds: Seconds = 20.0

    def __post_init__(self) -> None:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) must be at most max_replicas ({self.max_replicas})")
        if self.scale_up_ms < self.scale_down_ms:
            raise ValueError("scale_up_ms must be at least scale_down_ms")


@dataclass(frozen=True)
class ClusterConfig:
    """Where things run; on one kind of device nothing here but `pool` can change a weight.

    teacher: "pool" serves teacher scores from actors of their own, "local" loads the teacher into every student.
    cpus_per_student and gpus_per_student are Ray resources, fractions allowed. workers_per_student: the fewest and the
    most processes that train a student together, each with these resources; they divide `training.shards` among them,
    which they do not change. max_failures: deaths in a row without progress after which a student is given up.
    silence_seconds: without progress, after which a student's process may be suspected to hang, and is ended.

    Students train in slots, as many as there is room for, in turns where they are more: the one with the fewest images
    first (policy fair), or one after the other (sequential). min_slots: what must fit for a run to begin. max_slots:
    None for one per student. autoscale: ask Ray's autoscaler for that many instead of counting what is there. price: of
    a slot per hour, in any currency, for what `status` calls cost.
    """

    teacher: Literal["pool", "local"] = "pool"
    pool: PoolConfig = field(default_factory=PoolConfig)
    cpus_per_student: Amount = 1.0
    gpus_per_student: Amount = 0.0
    workers_per_student: tuple[Count, Count] = (1, 1)
    max_failures: CountOrNone = 3
    silence_seconds: Annotated[float, Field(gt=0, le=1e9)] = 900.0
    policy: Literal["fair", "sequential"] = "fair"
    min_slots: Count = 1
    max_slots: Count | None = None
    autoscale: bool = False
    price: Price = 0.0

    def __post_init__(self) -> None:
        if self.workers_per_student[0] > self.workers_per_student[1]:
            raise ValueError("workers_per_student must be [fewest, most], the fewest at most the most")
        if self.max_slots is not None and self.max_slots < self.min_slots:
            raise ValueError(f"max_slots ({self.max_slots}) must be at least min_slots ({self.min_slots})")

    @property
    def shares(self) -> bool:
        """Whether several processes may train a student together."""
        return self.workers_per_student[1] > 1


@dataclass(frozen=True)
class Recipe:
    """One run. network: the teacher's shape. student: how its students' shape is cut from it; students: how those of
    single ones are, by number, where they are to be others. stages: in order.

    pairs: how many pairs of noise and teacher sample are made, where an objective needs them. init: an ensemble, or a
    run that has one, of the same student shape: each student starts as the one there that owns most of its conditions.
    """

    name: str
    network: Annotated[Kind, PlainValidator(_network, json_schema_input_type=reduce(or_, KINDS.values()))]
    stages: dict[str, StageConfig]
    seed: Seed = 0
    pairs: Annotated[int, Field(ge=1, le=10**8)] = 2048
    init: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    noise: Noise = field(default_factory=Noise)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    student: StudentSize = field(default_factory=StudentSize)
    students: dict[int, StudentSize] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must name at least one stage")
        images = sum(stage.images for stage in self.stages.values())
        if images > MOST_CHECKPOINTS * self.training.checkpoint_every:
            raise ValueError(
                f"training.checkpoint_every ({self.training.checkpoint_every}) makes more than {MOST_CHECKPOINTS:,} "
                f"checkpoints in {images:,} images; set it to at least {-(-images // MOST_CHECKPOINTS):,}"
            )
        if (most := self.cluster.workers_per_student[1]) > self.training.shards:
            raise ValueError(
                f"cluster.workers_per_student: {most} workers cannot share batches of {self.training.shards} shards; "
                f"set training.shards to at least {most}, which changes the weights, or take fewer workers"
            )

    def to_json(self) -> dict[str, Any]:
        """Every value, None where it is left to a stage's method; `parse_recipe` reads it back."""
        return dataclasses.asdict(self)
