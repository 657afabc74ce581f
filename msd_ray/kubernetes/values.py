"""Everything that the Helm chart in helm/msd-ray takes. Its values.schema.json and its table are made from here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

URI = r"^(s3|gs|abfss?|hdfs)://[^/]+"
"""Storage that every pod sees, wherever it runs."""
SHARED = "/shared"
"""Where the pods see the volume of storage.volume."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Labels = dict[str, str]


class Values(BaseModel):
    """Keys are camelCase in YAML, as charts have it; one that there is not is refused by its name."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=True)


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


class Resources(Values):
    """What a pod asks for and may have: requests and limits are equal, so that Ray and Kubernetes count alike."""

    cpu: Quantity = Field(default="1", description="CPUs.")
    memory: Quantity = Field(default="4Gi", description="Memory.")


class Head(Resources):
    """The pod that leads a Ray cluster; it runs the driver and no students."""

    cpu: Quantity = Field(default="2", description="CPUs.")
    memory: Quantity = Field(default="8Gi", description="Memory.")


class Placement(Values):
    """Where pods go."""

    node_selector: Labels = Field(default={}, description="Labels that a node must have.")
    tolerations: list[dict[str, Any]] = Field(
        default=[], description="Taints that are fine, as Kubernetes writes them."
    )
    priority_class_name: str = Field(default="", description="An existing PriorityClass.")
    spread_over: str = Field(
        default="", description="A topology key, such as topology.kubernetes.io/zone, to spread over."
    )


class WorkerGroup(Resources, Placement):
    """Workers of one kind."""

    min: Count = Field(default=0, description="Fewest pods, with autoscaling.")
    max: Positive = Field(default=8, description="Most pods.")
    replicas: Count = Field(default=1, description="Pods to begin with.")
    cpu: Quantity = Field(default="4", description="CPUs.")
    memory: Quantity = Field(default="16Gi", description="Memory.")
    gpus: Count = Field(default=0, description="GPUs of a pod.")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="What the cluster calls them.")
    spot: bool = Field(
        default=False,
        description="Nodes that may be taken away: pods tolerate spotTolerations, and the label says spot.",
    )


class Autoscaling(Values):
    """Ray's autoscaler, version 2: pods come and go with what is asked for (set cluster.autoscale in the recipe)."""

    enabled: bool = Field(default=False, description="Whether to run it.")
    idle_seconds: Positive = Field(default=300, description="A worker without work goes after so long.")


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
    grace_seconds: Positive = Field(
        default=120,
        description="Between a pod's notice and its end: a checkpoint must fit. Spot notices are often shorter.",
    )
    auth_secret: str = Field(
        default="", description="A Secret with Ray's token under auth_token; empty: KubeRay makes one."
    )


class JobValues(Values):
    """A RayJob with a cluster of its own, which goes when the job ends."""

    enabled: bool = Field(default=False, description="Whether to run it.")
    backoff_limit: Count = Field(
        default=3, description="New clusters after a failure. Safe: the same command goes on where it stopped."
    )
    keep_seconds: Count = Field(default=3600, description="How long the RayJob stays to be looked at.")
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


class GatewayValues(Resources, Placement):
    """Pods that answer callers: one gateway of the service each, and nothing else."""

    replicas: Positive = Field(default=2, description="Pods, and so gateways.")
    memory: Quantity = Field(default="2Gi", description="Memory.")


class Tls(Values):
    """Certificates of both ports."""

    secret: str = Field(
        default="", description="A Secret with tls.crt and tls.key; empty for none, or for cert-manager."
    )
    issuer: str = Field(default="", description="A cert-manager Issuer that makes that Secret.")
    issuer_kind: Literal["Issuer", "ClusterIssuer"] = Field(default="ClusterIssuer", description="Its kind.")
    client_ca: bool = Field(
        default=False, description="Ask callers for certificates of the Secret's ca.crt; no HTTP then."
    )


class Route(Values):
    """The Gateway API: a GRPCRoute, and an HTTPRoute where it has names of its own."""

    enabled: bool = Field(default=False, description="Whether to make them.")
    parent: str = Field(default="", description="The Gateway to attach to.")
    parent_namespace: str = Field(default="", description="Where that is; empty for the release's.")
    hostnames: list[str] = Field(default=[], description="Names that gRPC callers use.")
    http_hostnames: list[str] = Field(
        default=[],
        description="Names for HTTP; empty for no HTTPRoute. Others than gRPC's: a listener takes one kind of route "
        "for each name.",
    )


class Ingress(Values):
    """ingress-nginx, as the other choice: an Ingress for gRPC and one for HTTP."""

    enabled: bool = Field(default=False, description="Whether to make them.")
    class_name: str = Field(default="nginx", description="Of the controller.")
    grpc_host: str = Field(default="", description="Name for gRPC.")
    http_host: str = Field(default="", description="Name for HTTP.")
    tls_secret: str = Field(
        default="", description="Certificate of both names; ingress-nginx speaks gRPC over TLS only."
    )


class Serve(Values):
    """The ensemble as a service: a RayService."""

    enabled: bool = Field(default=False, description="Whether to serve.")
    config: str = Field(
        default="", description="What `msd-ray serve config ENSEMBLE` prints: --set-file serve.config=FILE."
    )
    grpc_port: Port = Field(default=9000, description="gateway.port of the config.")
    http_port: Port = Field(default=8000, description="gateway.http_port of the config.")
    gateway: GatewayValues = Field(default_factory=GatewayValues, description="The pods that callers reach.")
    tokens_secret: str = Field(default="", description="A Secret whose key `tokens` has a bearer token per line.")
    tls: Tls = Field(default_factory=Tls, description="Certificates.")
    route: Route = Field(default_factory=Route, description="Gateway API.")
    ingress: Ingress = Field(default_factory=Ingress, description="ingress-nginx.")
    upgrade: Literal["NewCluster", "None"] = Field(
        default="NewCluster",
        description="Another image or pod: a second cluster takes over. KubeRay's third way routes no gRPC.",
    )
    drain_seconds: Positive = Field(default=60, description="How long the old cluster answers beside the new one.")
    fault_tolerance: bool = Field(
        default=False, description="GCS keeps its state on a volume (RocksDB), so a head may die."
    )


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
