"""The whole of what a user can say about a run."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from msd_ray.data import DataConfig
from msd_ray.diffusion import Noise
from msd_ray.evaluation.config import EvaluationConfig
from msd_ray.networks import MLPConfig, StudentSize, UNetConfig
from msd_ray.partition import PartitionConfig
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.teacher import TeacherConfig


@dataclass(frozen=True)
class ClusterConfig:
    """Where things run; on one kind of device nothing here changes a single weight.

    teacher: "pool" serves teacher scores from pool_size actors of their own, "local" loads the teacher into every
    student. cpus and gpus are Ray resources per actor, fractions allowed. max_failures: deaths in a row without
    progress after which a student is given up.
    """

    teacher: Literal["pool", "local"] = "pool"
    pool_size: int = 1
    pool_cpus: float = 1.0
    pool_gpus: float = 0.0
    cpus_per_student: float = 1.0
    gpus_per_student: float = 0.0
    max_failures: int = 3

    def __post_init__(self) -> None:
        if self.pool_size < 1 or self.max_failures < 0:
            raise ValueError("pool_size must be at least 1 and max_failures at least 0")
        if min(self.pool_cpus, self.pool_gpus, self.cpus_per_student, self.gpus_per_student) < 0:
            raise ValueError("cpus and gpus must not be negative")


@dataclass(frozen=True)
class Recipe:
    """One run. network: the teacher's shape. student: how its students' shape is cut from it. stages: in order.

    pairs: how many pairs of noise and teacher sample are made, where an objective needs them. init: an ensemble, or a
    run that has one, of the same student shape: each student starts as the one there that owns most of its conditions.
    """

    name: str
    network: Annotated[UNetConfig | MLPConfig, Field(discriminator="kind")]
    stages: dict[str, StageConfig]
    seed: int = 0
    pairs: int = 2048
    init: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    noise: Noise = field(default_factory=Noise)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    student: StudentSize = field(default_factory=StudentSize)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages must name at least one stage")
        if self.pairs < 1:
            raise ValueError("pairs must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Every value spelled out; `parse_recipe` reads it back."""
        return dataclasses.asdict(self)
