"""Processes of slots that no driver uses now, kept for the next driver: a new one takes seconds to import torch."""

import threading
from types import TracebackType
from typing import Any

import ray

SlotKind = tuple[Any, ...]
"""What a process was given: CPUs, GPUs and environment."""
KEPT = 30.0
"""Seconds after which processes that nobody took are ended: a teacher replica may need their room."""


class IdleSlots:
    """Used as a context: at its end all processes that are still kept are ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept = list[tuple[SlotKind, Any, str]]()  # kind, actor and node
        self._timer = threading.Timer(KEPT, self.close)

    def __enter__(self) -> "IdleSlots":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def keep(self, kind: SlotKind, actor: Any, node: str) -> None:
        with self._lock:
            self._kept.append((kind, actor, node))
            self._timer.cancel()
            self._timer = threading.Timer(KEPT, self.close)
            self._timer.daemon = True
            self._timer.start()

    def take(self, kind: SlotKind, nodes: set[str]) -> Any:
        """A kept process of this kind on one of these nodes, or None. All that it passes over are ended: they hold room
        that the caller needs."""
        with self._lock:
            while self._kept:
                known, actor, node = self._kept.pop(0)
                if known == kind and node in nodes:
                    return actor
                ray.kill(actor)
        return None

    def close(self) -> None:
        with self._lock:
            self._timer.cancel()
            if not ray.is_initialized():
                self._kept.clear()  # they ended with their cluster
            while self._kept:
                ray.kill(self._kept.pop()[1])
