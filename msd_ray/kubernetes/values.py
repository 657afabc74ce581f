"""Everything that the Helm chart in helm/msd-ray takes. Its values.schema.json and its table are made from here."""

from typing import Any, Literal

from pydantic import Field

from msd_ray.kubernetes.cluster_values import ClusterValues, Sweep, Train
from msd_ray.kubernetes.service_values import Serve
from msd_ray.kubernetes.value_types import Labels, Name, Quantity, Values

URI = r"^(s3|gs|abfss?|hdfs)://[^/]+"
"""Storage that every pod sees, wherever it runs."""
SHARED = "/shared"
"""Where the pods see the volume of storage.volume."""


class ImageValues(Values):
    """The one image that every pod runs."""

    repository: str = Field(default="msd-ray", min_length=1, description="Where deploy/build pushed the image.")
    tag: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_.-]*$",
        json_schema_extra={"not": {"const": "latest"}},
        description="Empty for the chart's version; `latest` is refused, for it names other bytes each day.",
    )
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$", description="Pins the bytes; beats the tag.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="As Kubernetes' own."
    )
    pull_secrets: list[Name] = Field(default=[], description="Secrets for a private registry.")


class Volume(Values):
    """A volume that every pod mounts, instead of an object store."""

    claim: str = Field(default="", description="An existing ReadWriteMany claim; empty to make none or a new one.")
    create: bool = Field(default=False, description="Make a claim; it is kept when the release goes.")
    size: Quantity = Field(default="100Gi", description="Of the claim that is made.")
    storage_class: str = Field(
        default="", description="One that offers ReadWriteMany; empty for the cluster's default."
    )


class ObjectStore(Values):
    """How pods reach an object store. Workload identity (serviceAccount.annotations) needs neither."""

    endpoint: str = Field(
        default="", pattern=r"^(https?://\S+)?$", description="Of a store that speaks S3, such as MinIO."
    )
    region: str = Field(default="", description="The bucket's.")
    secret: str = Field(
        default="", description="A Secret whose keys become environment variables, such as AWS_ACCESS_KEY_ID."
    )


class Storage(Values):
    """Where runs and caches live. All pods must see it, so a path must lie on the shared volume."""

    runs: str = Field(
        default="s3://CHANGE-ME/runs",
        pattern=rf"{URI}|^{SHARED}(/|$)",
        description=f"Parent of the run directories: a URI, or a path below {SHARED}. Pods do not see each other's "
        f"own disks, so any other path is refused.",
    )
    cache: str = Field(
        default="s3://CHANGE-ME/cache",
        pattern=rf"{URI}|^{SHARED}(/|$)",
        description="MSD_RAY_CACHE: teachers and feature networks, shared by all runs.",
    )
    object_store: ObjectStore = Field(default_factory=ObjectStore, description="Used where runs or cache are URIs.")
    volume: Volume = Field(default_factory=Volume, description=f"Mounted at {SHARED} where it has a claim.")


class ServiceAccount(Values):
    """Whose rights pods have."""

    create: bool = Field(default=True, description="Whether to make it.")
    name: str = Field(default="", description="Empty for the release's name.")
    annotations: Labels = Field(default={}, description="Workload identity, such as eks.amazonaws.com/role-arn.")


class NetworkPolicy(Values):
    """Who may connect."""

    enabled: bool = Field(default=True, description="Close all ports but the service's to all but the cluster's pods.")
    callers: list[dict[str, Any]] = Field(
        default=[], description="Who may call the service, as `from` of a NetworkPolicy; empty for everybody."
    )


class Monitoring(Values):
    """Prometheus and Grafana."""

    pod_monitor: bool = Field(default=False, description="A PodMonitor of the Prometheus operator.")
    dashboard: bool = Field(default=False, description="The Grafana dashboard as a ConfigMap.")
    labels: Labels = Field(default={}, description="That the Prometheus operator looks for.")


class Kueue(Values):
    """Kueue admits the jobs."""

    queue: str = Field(default="", description="A LocalQueue; empty for none.")


class ChartValues(Values):
    """All values of the chart."""

    name_override: str = Field(default="", description="Instead of the release's name.")
    image: ImageValues = Field(default_factory=ImageValues, description="The image.")
    storage: Storage = Field(default_factory=Storage, description="Runs and caches.")
    cluster: ClusterValues = Field(default_factory=ClusterValues, description="Ray clusters.")
    train: Train = Field(default_factory=Train, description="A training run.")
    sweep: Sweep = Field(default_factory=Sweep, description="A sweep.")
    serve: Serve = Field(default_factory=Serve, description="The service.")
    service_account: ServiceAccount = Field(default_factory=ServiceAccount, description="Rights.")
    network_policy: NetworkPolicy = Field(default_factory=NetworkPolicy, description="Connections.")
    monitoring: Monitoring = Field(default_factory=Monitoring, description="Metrics.")
    kueue: Kueue = Field(default_factory=Kueue, description="Admission.")
    pod_labels: Labels = Field(default={}, description="Of all pods.")
    pod_annotations: Labels = Field(default={}, description="Of all pods.")
    global_: dict[str, Any] = Field(default={}, alias="global", description="Helm's own.")
