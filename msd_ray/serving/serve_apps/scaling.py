"""How many replicas students have where their number follows from how long images wait. Serve's controller calls it.

Each replica tells Serve its `DELAY`, as a multiple of the one that is aimed at, and the share of the time for which it
is `BUSY`. Serve averages them, keeps to min_replicas and max_replicas, and waits before it removes a replica.
"""

from typing import Any

DELAY, BUSY = "msd_ray_delay", "msd_ray_busy"
TWICE = 2.0
"""The most by which the number of replicas grows at once."""
FULL = 0.7
"""The share of the time for which replicas may be busy after one of them has gone."""


def by_queue_delay(context: Any) -> tuple[float, dict[str, Any]]:
    """The number of replicas that there should be, and no state. context: ray.serve.config.AutoscalingContext."""
    running = context.current_num_replicas
    delay, busy = (_mean(context.aggregated_metrics.get(name, {})) for name in (DELAY, BUSY))
    if not running or delay is None or busy is None:
        return context.target_num_replicas, {}
    if delay > 1.0:
        return running * min(delay, TWICE), {}
    return min(running, running * busy / FULL), {}


def _mean(of_replicas: dict[Any, float]) -> float | None:
    """None if no replica has said anything yet."""
    return sum(of_replicas.values()) / len(of_replicas) if of_replicas else None
