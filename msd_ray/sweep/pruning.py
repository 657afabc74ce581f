"""Which trials' weights stay, and the removal of the others'."""

from collections.abc import Sequence

from msd_ray.storage import Store
from msd_ray.sweep.directory import trial_store
from msd_ray.sweep.front import front
from msd_ray.sweep.ledger import Ledger, Record
from msd_ray.sweep.schema import Definition

WEIGHTS = ("ensemble", "students", "baselines", "teacher")


def superfluous(records: Sequence[Record], definition: Definition) -> list[Record]:
    """The trials that ended, whose weights are still there and are not to stay. What is beaten once stays beaten, so
    nothing is removed that would be wanted later."""
    ended = [r for r in records if r.state != "running" and r.kept]
    if definition.keep == "all":
        return []
    metrics = definition.metrics
    if definition.keep == "best":
        first = next(iter(metrics))
        metrics = {first: metrics[first]}
    stays = front(records, metrics)
    stays = stays[:1] if definition.keep == "best" else stays
    return [r for r in ended if r not in stays]


def prune(store: Store, definition: Definition, ledger: Ledger) -> None:
    """Removes the weights of superfluous trials; leaves them their recipes, journals and pictures."""
    for record in superfluous(ledger.records, definition):
        for name in WEIGHTS:
            trial_store(store, record).delete(name)
        ledger.prune(record.number)
