"""The figures of a stage."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from msd_ray.serving.load.stages import Record


@dataclass(frozen=True)
class Figures:
    """load: as the stage is called; callers or rate of it. requests: that were sent. answered: those with images.
    unfinished: that had not ended when the stage was cut short. seconds: until the last one ended.

    p50_ms, p95_ms, p99_ms: latency of the answered ones, from when each was due; None if there are none. late_p99_ms:
    how late requests were sent, which is the fault of the process that loads. errors: ended requests by gRPC code.
    shed_share: of all tries, those refused with RESOURCE_EXHAUSTED.
    """

    load: str
    callers: int
    rate: float
    requests: int
    answered: int
    unfinished: int
    seconds: float
    images: int
    images_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    late_p99_ms: float | None
    retries: int
    shed_share: float
    errors: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def figures_of(record: Record) -> Figures:
    answers, stage = record.answers, record.stage
    outcomes = [answer.outcome for answer in answers]
    good = [answer for answer in answers if answer.outcome.code == "OK"]
    images, retries = sum(o.images for o in outcomes), sum(o.retries for o in outcomes)
    seconds = max((answer.done for answer in answers), default=record.seconds)
    p50, p95, p99 = percentiles([answer.done - answer.due for answer in good], 50, 95, 99)
    return Figures(
        load=str(stage),
        callers=stage.callers,
        rate=stage.rate,
        requests=record.asked,
        answered=len(good),
        unfinished=record.asked - len(answers),
        seconds=seconds,
        images=images,
        images_per_second=images / seconds if seconds else 0.0,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        late_p99_ms=percentiles([answer.sent - answer.due for answer in answers], 99)[0],
        retries=retries,
        shed_share=sum(o.shed for o in outcomes) / max(1, len(outcomes) + retries),
        errors=dict(Counter(o.code for o in outcomes if o.code != "OK").most_common()),
    )


def percentiles(seconds: list[float], *percents: float) -> list[float | None]:
    """In milliseconds, interpolated linearly; None of nothing."""
    if not seconds:
        return [None] * len(percents)
    return [float(value) for value in 1000 * np.percentile(seconds, percents)]
