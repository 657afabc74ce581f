"""The service against other ways to put the same generator behind a port, on one machine and in one run.

(a) service: `msd-ray serve`, through Ray Serve. (b) bare: a grpc.aio server around the same batched generator, in one
process. (c) bentoml: BentoML around the same generator, over HTTP, if it is installed (`pip install 'msd-ray[bench]'`,
or `--bentoml-python` of an environment of its own that has msd_ray as well). (d) teacher: its sampler with 35
evaluations, behind the same bare server as (b), on all CPUs. With `--proxy` also (e) proxy: Serve's own gRPC proxy
before the students of (a).

All run at the same time; each kind of load goes to one after the other, so that what else the machine does hits all
alike. What Ray's own processes take when nobody asks is in `idle_cpu_percent`. Callers ask again as soon as they are
answered. All but (d) must give the same bytes, which is checked first.

    python benchmarks/serving.py [KEY=VALUE ...] [--quick] [--seconds 8] [--callers 1 4 16 64] [--images 1 4 16]
                                 [--run runs/digits]

KEY=VALUE: of the recipe; network.channels=160 partition.k=1 makes a student of 20 million parameters.
The last line of standard output is one JSON object. ratios: images per second of (a) over those of the other.
p50_ms_over_bare: how much longer half of (a)'s requests take than (b)'s. routing_us: from a request's bytes to what its
students are asked, in microseconds.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from common import cpus, finish, say, versions
from serving_load import Ask, Cell, Figures, measure

from msd_ray.cluster.connect import listen_on_loopback

listen_on_loopback(None)  # before anything imports ray

from serving_costs import idle_cpu_percent, routing_us  # noqa: E402
from serving_ensembles import Served, trained, untrained  # noqa: E402
from serving_proxy import METADATA, route  # noqa: E402
from serving_servers import Connect, bare, bento, free_port, grpc_asker, service  # noqa: E402

from msd_ray.serving.service.ensemble_facts import describe  # noqa: E402
from msd_ray.serving.service.versions import Version  # noqa: E402

SAME = ("service", "proxy", "bare", "bentoml")


def cells(args: argparse.Namespace) -> list[Cell]:
    return [Cell(images, callers, args.seconds, args.requests) for images in args.images for callers in args.callers]


async def rows(servers: Mapping[str, Connect], args: argparse.Namespace, version: Version) -> list[Figures]:
    """A row for each kind of load, with the figures of each server."""
    measured = []
    async with AsyncExitStack() as stack:
        asks = {name: await stack.enter_async_context(connect()) for name, connect in servers.items()}
        await check_same(asks, version)
        for cell in cells(args):
            found = {name: await measure(ask, cell, len(version.labels)) for name, ask in asks.items()}
            measured.append({"images": cell.images, "callers": cell.callers, **found, **compared(found)})
            say(told(measured[-1], list(asks)))
    return measured


async def check_same(asks: Mapping[str, Ask], version: Version) -> None:
    """Asks each for every class, which warms it up as well. Exits where two do not give the same images."""
    classes = [i % len(version.labels) for i in range(2 * len(version.labels))]
    made = {name: await ask(classes, list(range(len(classes)))) for name, ask in asks.items()}
    different = [name for name in SAME if name in made and made[name] != made["bare"]]
    if different:
        raise SystemExit(f"{', '.join(different)}: not the images of the bare server")


def compared(found: Mapping[str, Figures]) -> Figures:
    """The service beside the others."""
    ours, others = found["service"], {name: figures for name, figures in found.items() if name != "service"}
    ratios = {name: ours["images_per_second"] / figures["images_per_second"] for name, figures in others.items()}
    return {"ratios": ratios, "p50_ms_over_bare": ours["p50_ms"] - found["bare"]["p50_ms"]}


def told(row: Figures, names: list[str]) -> str:
    """A row for a person to read."""
    said = [f"{name} {row[name]['images_per_second']:.0f} images/s p50 {row[name]['p50_ms']:.1f} ms" for name in names]
    return f"{row['images']:2} images, {row['callers']:2} callers: {'; '.join(said)}"


def run(served: Served, args: argparse.Namespace) -> Figures:
    version = describe(served.students)
    with ExitStack() as stack:
        proxy_port = free_port() if args.proxy else 0
        servers: dict[str, Any] = {"service": stack.enter_context(service(served.students, args.placement, proxy_port))}
        idle = idle_cpu_percent()
        if proxy_port:
            route(version)
            servers["proxy"] = lambda: grpc_asker(proxy_port, METADATA)
        servers["bare"] = stack.enter_context(bare(served.students, 1))
        servers["bentoml"] = stack.enter_context(bento(served.students, args.bentoml_python))
        if not args.no_teacher:
            servers["teacher"] = stack.enter_context(bare(served.teacher, cpus()))
        if not servers["bentoml"]:
            say("BentoML is not installed: its column is left out")
            del servers["bentoml"]
        measured = asyncio.run(rows(servers, args, version))
    routing = {str(images): routing_us(version, images) for images in args.images}
    return {"students": len(version.students), "idle_cpu_percent": idle, "routing_us": routing, "rows": measured}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--recipe", default="digits", help="whose networks are served, with random weights")
    parser.add_argument("--run", help="a run directory, to serve its trained ensemble instead")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4, 16], help="per request")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16, 64], help="at once")
    parser.add_argument("--seconds", type=float, default=8.0, help="per kind of load and server, at most")
    parser.add_argument("--requests", type=int, default=5000, help="per kind of load and server, at most")
    parser.add_argument("--bentoml-python", default=sys.executable, metavar="PATH", help="a Python that has BentoML")
    parser.add_argument("--proxy", action="store_true", help="(e) as well, which listens on every interface")
    parser.add_argument("--placement", default="auto", help="of (a)'s students; with --proxy it must be dedicated")
    parser.add_argument("--no-teacher", action="store_true", help="without (d), which takes the longest")
    parser.add_argument("--quick", action="store_true", help="two students, few callers, half a second each")
    args = parser.parse_args()
    if args.quick:
        args.images, args.callers, args.seconds = [1, 4], [1, 4], 0.5
    return args


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as where:
        overrides = [*(["partition.k=2"] if args.quick else []), *args.overrides]
        served = trained(args.run, where) if args.run else untrained(args.recipe, overrides, where)
        found = run(served, args)
    facts = {
        "device": "cpu",
        "recipe": args.recipe,
        "overrides": args.overrides,
        "run": args.run,
        "seconds": args.seconds,
    }
    finish("serving", {**facts, "grpc": versions("grpcio", "protobuf"), **found})


if __name__ == "__main__":
    main()
