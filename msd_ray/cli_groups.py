"""Groups of commands of which one is meant where none is named."""

from typing import Any

from typer.core import TyperGroup


class StartsByDefault(TyperGroup):
    """`serve ENSEMBLE` is short for `serve start ENSEMBLE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["start", *args]
        return super().parse_args(ctx, args)
