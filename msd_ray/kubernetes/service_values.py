"""The values of the chart's service: an ensemble behind gateways."""

from typing import Literal

from pydantic import Field

from msd_ray.kubernetes.value_types import Count, Placement, Port, Quantity, Resources, Values


class GatewayValues(Resources, Placement):
    """Pods that answer callers: one gateway of the service each, and nothing else."""

    replicas: Count = Field(default=2, description="Pods, and so gateways.")
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
    drain_seconds: Count = Field(default=60, description="How long the old cluster answers beside the new one.")
    fault_tolerance: bool = Field(
        default=False, description="GCS keeps its state on a volume (RocksDB), so a head may die."
    )
