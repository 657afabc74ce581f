"""The command line: all commands, and what becomes of their errors. The files cli*.py and `terminal` alone print."""

import logging
import signal
import sys
from typing import Annotated

import typer

from msd_ray import __version__
from msd_ray.cli_bench import bench_app
from msd_ray.cli_data import data_app
from msd_ray.cli_deploy import deploy_app
from msd_ray.cli_results import results_app
from msd_ray.cli_runs import runs_app
from msd_ray.cli_serve import serve_app
from msd_ray.cli_submit import submit_app
from msd_ray.cli_sweep import sweep_app
from msd_ray.errors import MsdRayError, Stopped, UserError
from msd_ray.stopping import STOP
from msd_ray.terminal import err, out

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(runs_app)
app.add_typer(results_app)
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")
app.add_typer(serve_app, name="serve")
app.add_typer(bench_app)
app.add_typer(submit_app, name="submit")
app.add_typer(deploy_app, name="deploy")
INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


def _version(asked: bool) -> None:
    if asked:
        out.print(f"msd-ray {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Distil one diffusion teacher into an ensemble of one-step students, on Ray."""


def main() -> None:
    """Runs the command line; every error that a user can mend is one line on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("msd_ray.evaluation").setLevel(logging.INFO)  # of features that are trained, which takes minutes
    try:
        code = app(standalone_mode=False)
    except Stopped as stopped:
        _stop(stopped)
    except MsdRayError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer raises for wrong usage has one
            raise
        if not error.format_message():  # no arguments: the help was shown
            sys.exit(UserError.exit_code)
        _fail(error.format_message(), UserError.exit_code)
    if code == INTERRUPTED:
        _stop(STOP.stopped(signal.SIGINT))
    sys.exit(code if isinstance(code, int) else 0)


def _stop(stopped: Stopped) -> None:
    err.print(str(stopped), soft_wrap=True)
    sys.exit(stopped.exit_code)


def _fail(message: str, code: int) -> None:
    err.print(f"error: {message}", markup=False, soft_wrap=True)
    sys.exit(code)
