"""The lease of a run on S3: two that want it at the same moment, where the store heeds conditions and where not."""

import threading

import pytest

from msd_ray.errors import TrainingError, UserError
from msd_ray.runs import lease as module
from msd_ray.runs.lease import NAME, Lease
from msd_ray.storage import Store
from msd_ray.storage import s3 as s3_module

from .running import S3


def race(uri: str) -> list[Lease]:
    """Who got the lease, of three that take it at the same moment; the others were told who has it."""
    holders, refused, start = list[Lease](), list[str](), threading.Barrier(3)

    def contend() -> None:
        lease = Lease(Store(uri))
        start.wait()
        try:
            lease.take()
            holders.append(lease)
        except UserError as error:
            refused.append(str(error))

    contenders = [threading.Thread(target=contend) for _ in range(3)]
    for contender in contenders:
        contender.start()
    for contender in contenders:
        contender.join()
    assert sum("is being trained by" in why for why in refused) == 3 - len(holders)
    return holders


@pytest.mark.parametrize("left_behind", ["nothing", "expired"])
def test_of_those_that_race_exactly_one_gets_it_and_at_once(
    left_behind: str, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("nobody has to wait for others to settle"))
    s3.behave(delay=0.01)
    for i in range(20):
        uri = s3.uri(f"bucket/race-{left_behind}-{i}")
        if left_behind == "expired":
            Store(uri).write(NAME, Lease(Store(uri), lambda: 1e9)._claim())
        (holder,) = race(uri)
        holder.check()
        holder.release()
        assert Store(uri).names() == []


def test_an_answer_that_is_lost_does_not_lose_the_lease(s3: S3) -> None:
    for i in range(6):
        uri = s3.uri(f"bucket/lost-{i}")
        s3.behave(every=2)
        lease = Lease(Store(uri))
        lease.take()
        lease.check()
        lease.release()
        s3.behave()
        assert Store(uri).names() == []


def test_where_conditions_are_ignored_whoever_wrote_last_keeps_it(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_heeds_conditions", {})
    monkeypatch.setattr(module, "SETTLING", 0.5)
    s3.behave(conditions="ignored")
    (holder,) = race(s3.uri("bucket/ignored"))
    holder.check()


def test_its_owner_is_told_who_took_it_over(s3: S3) -> None:
    store = Store(s3.uri("bucket/taken"))
    now = [1e9]
    first, second = (Lease(store, lambda: now[0]) for _ in range(2))
    first.take()
    now[0] += 100
    second.take()
    with pytest.raises(TrainingError, match="has taken over"):
        first.check()
    second.check()
