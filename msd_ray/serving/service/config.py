"""The configuration of a service."""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from msd_ray.errors import UserError
from msd_ray.ranges import Amount, Count, CountOrNone, Seconds, Share, Threads
from msd_ray.recipes.load import with_overrides
from msd_ray.recipes.yaml_files import read_yaml, validated
from msd_ray.serving.service.request import Limits

Placement = Literal["dedicated", "multiplexed", "gateway"]
RENAMED = {"front": "gateway"}
"""The present names of keys in older files."""
Port = Annotated[int, Field(ge=0, le=65535)]


@dataclass(frozen=True)
class StudentConfig:
    """The students' replicas. placement: `dedicated` gives each part of the conditions a deployment of its own,
    `multiplexed` lets replicas hold up to `resident` parts each, `auto` takes the first where CPUs, memory and
    GPUs are enough. `gateway` gives each gateway all students, in its own process, and there are no replicas.

    cpus, gpus: Ray resources of a replica, fractions allowed. threads: that its networks compute with; other numbers
    may change last bits. min_replicas, max_replicas: of each deployment; with 0 Serve stops it after idle_seconds
    without requests. batching: `exact` gives each image the bits of `generate`, `batched` fills evaluations freely and
    says how much an image may differ; `auto` is as the ensemble says, and batched on a GPU. precision: of the networks'
    mathematics; bf16 rounds much more, so these images are batched. engine: what computes the networks; `compile`,
    torch's compiler, and `onnxruntime`, another library, round otherwise than `generate`, so these images are batched.
    batch: most images of an evaluation, 0 for 64. evaluation_ms: how long a batched evaluation of several images may
    take. wait_ms: how long an image waits for others though the student is idle. queue: images that may wait at a
    replica. ongoing: calls per replica that autoscaling aims at, between min_replicas and max_replicas; queue_delay_ms:
    it aims at this wait of images before they are computed instead, if it is not 0.
    """

    placement: Placement | Literal["auto"] = "auto"
    resident: Count = 8
    cpus: Amount = 0.1
    gpus: Amount = 0.0
    threads: Threads = 1
    min_replicas: CountOrNone = 1
    max_replicas: Count = 1
    idle_seconds: Seconds = 300.0
    batching: Literal["auto", "exact", "batched"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    engine: Literal["torch", "compile", "onnxruntime"] = "torch"
    batch: CountOrNone = 0
    evaluation_ms: Seconds = 1000.0
    wait_ms: Seconds = 0.0
    queue: Count = 1024
    ongoing: Annotated[float, Field(gt=0, le=1e6)] = 8.0
    queue_delay_ms: Seconds = 0.0

    def __post_init__(self) -> None:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) must be at most max_replicas ({self.max_replicas})")
        if self.queue_delay_ms and self.min_replicas == self.max_replicas:
            raise ValueError("queue_delay_ms needs max_replicas above min_replicas")
        if self.placement == "gateway" and (self.min_replicas, self.max_replicas) != (1, 1):
            raise ValueError(
                "placement: gateway has as many students as gateway.replicas: leave min_replicas and max_replicas 1"
            )
        if self.precision == "bf16" and self.batching == "exact":
            raise ValueError("bf16 changes more than the last bits: it needs batching: batched")
        if self.engine != "torch" and self.batching == "exact":
            raise ValueError(f"engine {self.engine} changes the last bits: take batching: batched, or engine: torch")
        if self.engine == "onnxruntime" and self.precision == "bf16":
            raise ValueError("engine onnxruntime computes in fp32: take precision: fp32, or engine: compile")


@dataclass(frozen=True)
class GatewayConfig:
    """The gateways: processes that answer gRPC and, through Serve's proxy, HTTP. host: the interface; others than
    loopback should have tls and tokens. port: of gRPC, shared by all replicas of a node; 0, any one, is for tests.
    tls_cert, tls_key: PEM files; gRPC takes up new ones while it runs. tls_client_ca: PEM of the authority of clients'
    certificates; with it clients need a certificate, and there is no HTTP. tokens: a file with one bearer token per
    line; it may change at any time. resource: a custom Ray resource of which each gateway takes one, so that gateways
    are on nodes that have it. access_log: one JSON line per request on standard error. audit: a file to which gateways
    append a JSON line per request, with who asked for what; empty for none. drain_seconds: how long requests may still
    take when a gateway ends. connection_seconds: age at which a gateway closes a connection after its running calls, so
    that callers find gateways that were added since. 0: never. socket: path of a Unix socket on which gRPC listens as
    well, without TLS; for one gateway. origins: of web pages, such as https://a.example, that may ask over HTTP; * for
    all. grpc_web: whether the HTTP port speaks gRPC-Web too.
    """

    host: str = "127.0.0.1"
    port: Port = 9000
    http_port: Port = 8000
    replicas: Count = 1
    cpus: Amount = 0.1
    resource: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tokens: str = ""
    access_log: bool = True
    audit: str = ""
    drain_seconds: Seconds = 15.0
    connection_seconds: Seconds = 300.0
    socket: str = ""
    origins: tuple[str, ...] = ()
    grpc_web: bool = False

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key) or (self.tls_client_ca and not self.tls_cert):
            raise ValueError("tls_cert and tls_key belong together, and tls_client_ca needs both")
        if self.socket and self.replicas > 1:
            raise ValueError("a Unix socket is for one gateway: replicas must be 1")

    def address(self, port: int) -> str:
        """host:port, with brackets around an address of IPv6."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


@dataclass(frozen=True)
class TraceConfig:
    """OpenTelemetry. exporter: `module:function` that gives Ray Serve span processors; `file` writes spans to Serve's
    logs; empty for no traces. share: of the requests without a `traceparent` that are traced.
    """

    exporter: str = ""
    share: Share = 0.01

    def __post_init__(self) -> None:
        if self.exporter not in ("", "file") and ":" not in self.exporter:
            raise ValueError("traces.exporter must be `file` or module:function")


@dataclass(frozen=True)
class ServeConfig:
    """keep: versions that stay ready, also without traffic, for a roll-back at once."""

    keep: Count = 2
    students: StudentConfig = field(default_factory=StudentConfig)
    limits: Limits = field(default_factory=Limits)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    traces: TraceConfig = field(default_factory=TraceConfig)

    def __post_init__(self) -> None:
        if self.limits.images > self.students.queue:
            raise ValueError("students.queue must have room for a request of limits.images")

    def to_json(self) -> dict[str, Any]:
        """Every value spelled out; `parse_config` reads it back."""
        return asdict(self)


def load_config(file: str | None, overrides: list[str] | None = None) -> ServeConfig:
    """The configuration in a YAML file, or the defaults, with `key=value` overrides. Raises UserError if it is
    wrong."""
    raw: dict[str, Any] = {}
    if file:
        raw = read_yaml(file)
    return parse_config(with_overrides(raw, overrides or []))


def parse_config(raw: dict[str, Any]) -> ServeConfig:
    """The configuration in plain data. Raises UserError as `load_config`."""
    for old, new in RENAMED.items():
        if old in raw:
            raise UserError(f"unknown key {old}; it is called {new} now")
    return validated(ServeConfig, "", raw)
