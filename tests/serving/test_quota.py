"""The mathematics of rates and quotas, by a clock that stands still."""

import random

import pytest

from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.quota import DAY, Account, Quota

FREE = Quota(0.0, 256, 0)


def refused(account: Account, images: int, quota: Quota, now: float, today: float = 0.0) -> Refusal | None:
    try:
        account.take(images, quota, now, today)
    except Refusal as refusal:
        return refusal
    return None


def test_after_a_burst_images_come_at_the_rate() -> None:
    account, quota = Account(), Quota(2.0, 10, 0)
    assert not refused(account, 10, quota, 100.0)
    told = refused(account, 1, quota, 100.0)
    assert told and (told.kind, told.retry_seconds) == ("RESOURCE_EXHAUSTED", 0.5)
    assert refused(account, 5, quota, 102.4)
    assert not refused(account, 5, quota, 102.5)
    told = refused(account, 10, quota, 102.5)
    assert told and told.retry_seconds == 5.0
    assert not refused(account, 10, quota, 1000.0)  # no more than the burst is saved up
    assert refused(account, 1, quota, 1000.0)


def test_whoever_comes_back_when_told_is_let_in() -> None:
    rng, account, quota, now = random.Random(0), Account(), Quota(3.0, 20, 0), 0.0
    for _ in range(500):
        images = rng.randrange(1, 21)
        if told := refused(account, images, quota, now):
            assert told.retry_seconds is not None
            assert refused(account, images, quota, now + 0.99 * told.retry_seconds)
            now += told.retry_seconds + 1e-9
            assert not refused(account, images, quota, now)


@pytest.mark.parametrize("seed", range(5))
def test_no_window_has_more_than_a_burst_and_the_rate(seed: int) -> None:
    rng, account, quota = random.Random(seed), Account(), Quota(5.0, 12, 0)
    let_in, now = list[tuple[float, int]](), 0.0
    for _ in range(400):
        now += rng.expovariate(4.0)
        images = rng.randrange(1, 8)
        if not refused(account, images, quota, now):
            let_in.append((now, images))
    for i, (first, _) in enumerate(let_in):
        total = 0
        for at, images in let_in[i:]:
            total += images
            assert total <= quota.burst + quota.images_per_second * (at - first) + 1e-6
    assert sum(images for _, images in let_in) > 0.9 * quota.images_per_second * now  # and nothing is lost


def test_more_than_a_burst_at_once_is_never_let_in() -> None:
    told = refused(Account(), 11, Quota(1.0, 10, 0), 1e6)
    assert told and told.retry_seconds is None and "10 images at once" in told.message


def test_a_day_ends_at_midnight() -> None:
    account, quota, noon = Account(), Quota(0.0, 256, 100), 20_000 * DAY + DAY / 2
    assert not refused(account, 60, quota, 0.0, noon)
    assert not refused(account, 40, quota, 0.0, noon)
    told = refused(account, 1, quota, 0.0, noon + 600)
    assert told and told.retry_seconds == DAY / 2 - 600
    assert not refused(account, 100, quota, 0.0, noon + DAY / 2)


def test_what_is_given_back_can_be_asked_for_again() -> None:
    account, quota = Account(), Quota(1.0, 10, 10)
    assert not refused(account, 10, quota, 0.0)
    account.give_back(4)
    assert not refused(account, 4, quota, 0.0)
    assert refused(account, 1, quota, 0.0)


def test_without_limits_nobody_is_refused() -> None:
    account = Account()
    assert not any(refused(account, 256, FREE, 0.0) for _ in range(1000))
