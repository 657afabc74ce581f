"""The values of the chart's Ray clusters, and of the jobs that run on them."""

from typing import Annotated, Any

from pydantic import Field

from msd_ray.kubernetes.value_types import Count, CountOrNone, Name, Placement, Quantity, Resources, Values


class Head(Resources):
    """The pod that leads a Ray cluster; it runs the driver and no students."""

    cpu: Quantity = Field(default="2", description="CPUs.")
    memory: Quantity = Field(default="8Gi", description="Memory.")


class WorkerGroup(Resources, Placement):
    """Workers of one kind."""

    min: CountOrNone = Field(default=0, description="Fewest pods, with autoscaling.")
    max: Count = Field(default=8, description="Most pods.")
    replicas: CountOrNone = Field(default=1, description="Pods to begin with.")
    cpu: Quantity = Field(default="4", description="CPUs.")
    memory: Quantity = Field(default="16Gi", description="Memory.")
    gpus: CountOrNone = Field(default=0, description="GPUs of a pod.")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="What the cluster calls them.")
    spot: bool = Field(
        default=False,
        description="Nodes that may be taken away: pods tolerate spotTolerations, and the label says spot.",
    )


class Autoscaling(Values):
    """Ray's autoscaler, version 2: pods come and go with what is asked for (set cluster.autoscale in the recipe)."""

    enabled: bool = Field(default=False, description="Whether to run it.")
    idle_seconds: Count = Field(default=300, description="A worker without work goes after so long.")


class ClusterValues(Values):
    """What every Ray cluster of the chart is made of."""

    enabled: bool = Field(default=False, description="A RayCluster that stays, for `msd-ray submit --address`.")
    ray_version: str = Field(default="2.60.0", pattern=r"^\d+\.\d+\.\d+$", description="Of the image.")
    head: Head = Field(default_factory=Head, description="The head pod.")
    workers: dict[Name, WorkerGroup] = Field(
        default_factory=lambda: {"cpu": WorkerGroup()}, description="Groups of workers by name."
    )
    autoscaling: Autoscaling = Field(default_factory=Autoscaling, description="Ray's autoscaler.")
    spot_tolerations: list[dict[str, Any]] = Field(
        default=[], description="What nodes of spot groups are tainted with."
    )
    grace_seconds: Count = Field(
        default=120,
        description="Between a pod's notice and its end: a checkpoint must fit. Spot notices are often shorter.",
    )
    auth_secret: str = Field(
        default="", description="A Secret with Ray's token under auth_token; empty: KubeRay makes one."
    )


class JobValues(Values):
    """A RayJob with a cluster of its own, which goes when the job ends."""

    enabled: bool = Field(default=False, description="Whether to run it.")
    backoff_limit: CountOrNone = Field(
        default=3, description="New clusters after a failure. Safe: the same command goes on where it stopped."
    )
    keep_seconds: CountOrNone = Field(default=3600, description="How long the RayJob stays to be looked at.")
    cluster_selector: str = Field(
        default="", description="An existing RayCluster to run on, instead of one of its own."
    )
    suspend: bool = Field(default=False, description="Wait until somebody, such as Kueue, lets it go.")


class Train(JobValues):
    """`msd-ray train`."""

    recipe: str | dict[str, Any] = Field(
        default="digits", description="A shipped recipe by name, or a whole recipe, which becomes a ConfigMap."
    )
    overrides: list[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*=")]] = Field(default=[], description="KEY=VALUE.")
    name: Name = Field(default="digits", description="Of the run directory below storage.runs.")


class Sweep(JobValues):
    """`msd-ray sweep`."""

    definition: dict[str, Any] = Field(default={}, description="A sweep as docs/sweeps.md has it.")
    recipe: dict[str, Any] = Field(
        default={}, description="A whole recipe that the definition starts from; empty where it names a shipped one."
    )
    name: Name = Field(default="sweep", description="Of the sweep's directory below storage.runs.")
    schedule: str = Field(
        default="",
        pattern=r"^(\S+ \S+ \S+ \S+ \S+)?$",
        description="Cron: a RayCronJob, such as '0 2 * * *'; each day has a directory of its own below the name.",
    )
