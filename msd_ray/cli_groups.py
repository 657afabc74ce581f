"""Groups of commands of which one is meant where none is named."""

from typing import Any

from typer.core import TyperGroup


def by_default(command: str) -> type[TyperGroup]:
    """A group in which `serve ENSEMBLE` is short for `serve start ENSEMBLE`."""

    class ByDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
                args = [command, *args]
            return super().parse_args(ctx, args)

    return ByDefault
