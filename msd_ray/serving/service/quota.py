"""How many images a caller may ask for: so many a second, and so many a day."""

from dataclasses import dataclass

from msd_ray.serving.protocol.refusal import Refusal, busy

DAY = 86_400


@dataclass(frozen=True)
class Quota:
    """images_per_second: on average; 0 for any number. burst: images that may be asked for at once after a pause.
    images_per_day: from midnight to midnight UTC; 0 for any number."""

    images_per_second: float
    burst: int
    images_per_day: int


class Account:
    """What one caller has asked for: a token bucket, and a count of the day. Times are in seconds, and given by whoever
    asks: `now` of a steady clock, `today` since 1970."""

    def __init__(self) -> None:
        self._spent, self._at = 0.0, 0.0
        self._used, self._day = 0, 0

    def take(self, images: int, quota: Quota, now: float, today: float) -> None:
        """Counts the images. Raises Refusal, and counts nothing, if there are too many; it says when to come back."""
        if int(today // DAY) != self._day:
            self._used, self._day = 0, int(today // DAY)
        self._spent, self._at = max(0.0, self._spent - quota.images_per_second * (now - self._at)), now
        if quota.images_per_day and self._used + images > quota.images_per_day:
            raise busy(f"you may ask for {quota.images_per_day} images a day", DAY - today % DAY)
        if quota.images_per_second:
            self._refuse_fast(images, quota)
        self._spent, self._used = self._spent + images, self._used + images

    def give_back(self, images: int) -> None:
        """Takes images off the count that the service did not make."""
        self._spent, self._used = max(0.0, self._spent - images), max(0, self._used - images)

    def _refuse_fast(self, images: int, quota: Quota) -> None:
        if images > quota.burst:
            raise Refusal("RESOURCE_EXHAUSTED", f"you may ask for {quota.burst} images at once")
        missing = self._spent + images - quota.burst
        if missing > 0:
            raise busy(
                f"you may ask for {quota.images_per_second:g} images a second", missing / quota.images_per_second
            )
