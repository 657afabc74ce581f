"""The teacher pool as the driver sees it."""

from typing import Any, ClassVar, Protocol


class Support(Protocol):
    """The teacher pool as the driver sees it."""

    @property
    def replicas(self) -> list[Any]: ...

    @property
    def ready(self) -> bool: ...

    def tick(self) -> None:
        """Called by the driver every second or so; does not wait."""
        ...


class NoPool:
    """The support of students that bring their own teacher, or need none."""

    replicas: ClassVar[list[Any]] = []
    ready = True

    def tick(self) -> None:
        """Nothing to look after."""
