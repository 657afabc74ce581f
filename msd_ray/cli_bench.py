"""The command `msd-ray bench`: load on a running service."""

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msd_ray.errors import MsdRayError, UserError
from msd_ray.stopping import STOP
from msd_ray.terminal import err, out, wide
from msd_ray.terminal import table as columns

if TYPE_CHECKING:
    from msd_ray.serving.load.figures import Figures
    from msd_ray.serving.load.stages import Record

bench_app = typer.Typer()
PICTURES = (".svg", ".png")


@bench_app.command()
def bench(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Of gRPC, such as 127.0.0.1:9000.")],
    callers: Annotated[
        str, typer.Option(metavar="N,...", help="So many at once, each again as soon as it is answered.")
    ] = "",
    rate: Annotated[
        str, typer.Option(metavar="R,...", help="Requests per second at random times, answered or not.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="For each number of callers and rate.")] = 10.0,
    images: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of a request.")] = 1,
    conditions: Annotated[str, typer.Option(help="Such as 0-9, or labels: cat, dog; by default all classes.")] = "",
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="One a line, instead of conditions.")] = None,
    format: Annotated[str, typer.Option(metavar="png|webp|jpeg|float32", help="By default what suits.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of times, conditions and the images' own seeds.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.01, max=86400, help="Seconds for a request, all tries.")] = 60.0,
    tries: Annotated[int, typer.Option(min=1, max=1000, help="Of a request; one shows what is refused.")] = 1,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="That requests take turns on.")] = 4,
    token: Annotated[str, typer.Option(envvar="MSD_RAY_TOKEN", help="Where the service asks for one.")] = "",
    tls: Annotated[bool, typer.Option("--tls", help="The port has TLS; the options below mean this too.")] = False,
    tls_ca: Annotated[str, typer.Option(metavar="PEM", help="Authority of the service's certificate.")] = "",
    tls_cert: Annotated[str, typer.Option(metavar="PEM", help="Certificate of the caller.")] = "",
    tls_key: Annotated[str, typer.Option(metavar="PEM", help="Its key.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A picture to write: .svg or .png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Load a running service over gRPC, and say how fast it answers; with 1, 4 and 16 callers by default. Ctrl-C ends
    the test and prints what was measured."""
    from msd_ray.serving.client import Connection
    from msd_ray.serving.load.load_test import load_test
    from msd_ray.serving.load.stages import Stage
    from msd_ray.serving.load.target import Mix

    _refuse(address, output)
    rates, counts = numbers_of(rate, "--rate", 1e6), numbers_of(callers, "--callers", 10_000)
    counts = counts or ([] if rates else [1, 4, 16])
    stages = [Stage(callers=int(n), seconds=seconds) for n in counts]
    stages += [Stage(rate=each, seconds=seconds) for each in rates]
    where = Connection(address, token, tls or bool(tls_key), tls_ca, tls_cert, tls_key, connections)
    mix = Mix(_conditions(conditions, prompts), images, format, seed)
    shown = _Shown()
    with STOP.in_order(), shown.status:
        found = asyncio.run(
            load_test(where, stages, mix, timeout, tries, lambda: STOP.asked, shown.running, shown.ended)
        )
    _print(found, as_json)
    if output and found:
        _draw(output, found)
    STOP.check()
    if not any(stage.answered for stage in found):
        raise MsdRayError("no request was answered")


def numbers_of(text: str, option: str, most: float) -> list[float]:
    """ "1,4,16" -> [1, 4, 16]. Raises UserError where the text is not of that form, or a number is too high."""
    try:
        found = [float(each) for each in text.split(",")] if text else []
    except ValueError:
        raise UserError(f"{option} {text} is not of the form 1,4,16") from None
    if any(not 0 < each <= most or (option == "--callers" and each % 1) for each in found):
        kind = "whole numbers above 0" if option == "--callers" else "numbers above 0"
        raise UserError(f"{option} {text}: these are {kind} up to {most:g}")
    return found


def _refuse(address: str, output: Path | None) -> None:
    """Raises UserError for what can be seen to be wrong before anybody is asked."""
    if not re.fullmatch(r"(unix:.+|.+:\d{1,5})", address) or "//" in address:
        raise UserError(f"{address} is not the address of a gRPC port: host:port, such as 127.0.0.1:9000")
    if output and output.suffix not in PICTURES:
        raise UserError(f"{output}: the picture is written as {' or '.join(PICTURES)}")
    if output and not output.absolute().parent.is_dir():
        raise UserError(f"there is no directory {output.parent}")


def _conditions(text: str, prompts: Path | None) -> tuple[int | str, ...]:
    """Of the two options. Raises UserError where they are wrong."""
    if prompts is None:
        from msd_ray.runs.generate import numbers

        by_number = re.fullmatch(r"[-\d,\s]+", text)
        return tuple(numbers(text, "conditions") if by_number else filter(None, map(str.strip, text.split(","))))
    if text:
        raise UserError("--prompts says in words what --conditions says by number: give one of them")
    try:
        lines = prompts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {prompts}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    if not (found := tuple(line.strip() for line in lines if line.strip())):
        raise UserError(f"{prompts} has no prompts")
    return found


class _Shown:
    """On a terminal a line that changes; elsewhere a line for each stage that ended."""

    def __init__(self) -> None:
        self.status = err.status("asking for the first images")

    def running(self, record: "Record") -> None:
        stage = record.stage
        so_far = f"{record.seconds:.0f} of {stage.seconds:g} s, {len(record.answers)} of {record.asked} requests ended"
        self.status.update(f"{stage}: {so_far}")

    def ended(self, stage: "Figures") -> None:
        if not err.is_terminal:
            err.print(f"{stage.load}: {stage.images_per_second:.1f} images/s, p50 {_ms(stage.p50_ms)} ms")


HEADERS = ["load", "requests", "images/s", "p50 ms", "p95 ms", "p99 ms", "late ms", "shed", "retries", "errors"]


def _print(stages: Sequence["Figures"], as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps({"stages": [stage.to_json() for stage in stages]}))
    else:
        wide.print(columns(HEADERS, [_cells(stage) for stage in stages]))


def _cells(stage: "Figures") -> list[str]:
    errors = [f"{n} {code}" for code, n in stage.errors.items()]
    errors += [f"{stage.unfinished} unfinished"] if stage.unfinished else []
    times = [_ms(ms) for ms in (stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.late_p99_ms)]
    shed = f"{stage.shed_share:.1%}"
    return [
        stage.load,
        str(stage.requests),
        f"{stage.images_per_second:.1f}",
        *times,
        shed,
        str(stage.retries),
        ", ".join(errors) or "-",
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _draw(output: Path, stages: Sequence["Figures"]) -> None:
    from msd_ray.serving.load.chart import load_chart

    try:
        output.write_bytes(load_chart(stages, output.suffix))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from None
