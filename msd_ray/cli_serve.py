"""The commands below `msd-ray serve`."""

import json
from typing import Annotated, Any

import typer

from msd_ray.cli_groups import by_default
from msd_ray.stopping import STOP
from msd_ray.terminal import err, out, table

serve_app = typer.Typer(
    help="Serve an ensemble over gRPC and HTTP: `serve ENSEMBLE`, or a command for a service that runs.",
    cls=by_default("start"),
    no_args_is_help=True,
)

EnsembleUri = Annotated[str, typer.Argument(metavar="ENSEMBLE", help="An ensemble, or the directory of its run.")]
ConfigFile = Annotated[str | None, typer.Option("--config", metavar="FILE", help="YAML; see docs/serving.md.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as students.max_replicas=4.")
]
Address = Annotated[str | None, typer.Option(metavar="A", help="Ray cluster of the service; RAY_ADDRESS by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@serve_app.command()
def start(
    ensemble: EnsembleUri,
    overrides: Overrides = None,
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Interface to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Of gRPC; 9000 by default.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Of HTTP; 8000 by default.")] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="PEM", help="Certificate of both ports.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="PEM", help="Its key.")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option(metavar="PEM", help="Ask for clients' certificates, of this authority; no HTTP then.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(metavar="FILE", help="Bearer tokens, one per line.")] = None,
    address: Address = None,
) -> None:
    """Serve an ensemble until this is stopped (Ctrl-C); on a local Ray cluster, or the one at --address."""
    from msd_ray.serving.serve_apps.serve import serving
    from msd_ray.serving.service.config import load_config

    options = {"host": host, "port": port, "http_port": http_port, "tokens": tokens}
    options |= {"tls_cert": tls_cert, "tls_key": tls_key, "tls_client_ca": tls_client_ca}
    said = [f"gateway.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    settings = load_config(config, [*(overrides or []), *said])
    with serving(ensemble, settings, address, err.print) as ray_address:
        scheme = "https" if settings.gateway.tls_cert else "http"
        gateway = settings.gateway
        out.print(f"gRPC:  {gateway.address(gateway.port)}", highlight=False)
        if not gateway.tls_client_ca:
            out.print(f"HTTP:  {scheme}://{gateway.address(gateway.http_port)}/", highlight=False)
        out.print(f"update: msd-ray serve update ENSEMBLE --address {ray_address}", highlight=False, soft_wrap=True)
        with STOP.in_order(seconds=None):
            STOP.wait()
        err.print("stopping: requests under way are finished")


@serve_app.command()
def update(
    ensemble: EnsembleUri,
    name: Annotated[str, typer.Option(help="What to call the version; by its content where not given.")] = "",
    weight: Annotated[float, typer.Option(min=0.0, max=1.0, help="Its share of the traffic: a canary below 1.")] = 1.0,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Serve another version, or give one another share, without losing a request. Equal students go on running."""
    from msd_ray.serving.serve_apps.serve import attached

    with attached(address) as service:
        traffic = service.update(ensemble, name, weight)
    _print(traffic, as_json)


@serve_app.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="[VERSION]", help="By default the main one of the others.")] = "",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Give all traffic back to a version that is still there, at once."""
    from msd_ray.serving.serve_apps.serve import attached

    with attached(address) as service:
        traffic = service.roll_back(name)
    _print(traffic, as_json)


@serve_app.command()
def versions(address: Address = None, as_json: AsJson = False) -> None:
    """Print the versions that are served, and the share of the traffic that each gets."""
    from msd_ray.serving.serve_apps.serve import attached

    with attached(address) as service:
        traffic, _, _ = service.current()
    _print(traffic, as_json)


@serve_app.command("config")
def write_config(ensemble: EnsembleUri, overrides: Overrides = None, config: ConfigFile = None) -> None:
    """Print a config file for Ray's `serve deploy`, which keeps the service up without this process."""
    from msd_ray.cluster.connect import listen_on_loopback
    from msd_ray.runs.run_directory import ensemble_folder
    from msd_ray.serving.service.config import load_config
    from msd_ray.serving.service.ensemble_facts import describe

    listen_on_loopback(None)
    from msd_ray.serving.serve_apps.manifest import as_yaml

    said = as_yaml(describe(ensemble_folder(ensemble).uri), load_config(config, overrides))
    out.print(said, markup=False, highlight=False, soft_wrap=True)


def _print(traffic: Any, as_json: bool) -> None:
    total = sum(traffic.weights)
    rows = [(v, weight / total) for v, weight in zip(traffic.versions, traffic.weights, strict=True)]
    if as_json:
        out.print_json(json.dumps([{"name": v.name, "weight": share, "uri": v.uri} for v, share in rows]))
        return
    cells = [[v.name, f"{share:.0%}", str(len(v.students)), v.uri] for v, share in rows]
    out.print(table(["version", "traffic", "students", "ensemble"], cells))
