import asyncio
from xml.etree import ElementTree

import pytest

from msd_ray.serving.load.chart import load_chart
from msd_ray.serving.load.figures import Figures, figures_of, percentiles
from msd_ray.serving.load.stages import Answer, Outcome, Record, Stage


def figures(stage: Stage, answers: list[Answer], asked: int) -> Figures:
    async def go() -> Figures:
        return figures_of(Record(stage, asked, answers))

    return asyncio.run(go())


def test_percentiles_of_a_known_series() -> None:
    assert percentiles([i / 1000 for i in range(101)], 50, 95, 99) == pytest.approx([50, 95, 99])
    assert percentiles([0.001, 0.002], 50, 75) == pytest.approx([1.5, 1.75])
    assert percentiles([], 50, 99) == [None, None]


def test_a_stage_is_counted() -> None:
    answers = [
        Answer(0.0, 0.1, 0.5, Outcome("OK", 3)),
        Answer(1.0, 1.0, 1.3, Outcome("OK", 3, retries=2, shed=1)),
        Answer(2.0, 2.0, 2.1, Outcome("RESOURCE_EXHAUSTED", 0, retries=1, shed=2)),
        Answer(2.0, 2.0, 4.0, Outcome("DEADLINE_EXCEEDED")),
    ]
    found = figures(Stage(rate=1.0), answers, asked=6)
    assert (found.requests, found.answered, found.unfinished, found.images) == (6, 2, 2, 6)
    assert (found.seconds, found.images_per_second, found.retries) == (4.0, 1.5, 3)
    assert found.p50_ms == pytest.approx(400)  # half of 500 and 300: from when they were due
    assert found.errors == {"RESOURCE_EXHAUSTED": 1, "DEADLINE_EXCEEDED": 1}
    assert found.shed_share == 3 / 7  # of 4 first tries and 3 more
    assert found.late_p99_ms == pytest.approx(97)


def test_nothing_is_measured_of_no_answers() -> None:
    found = figures(Stage(callers=2), [], asked=2)
    assert (found.answered, found.unfinished, found.p99_ms, found.errors, found.shed_share) == (0, 2, None, {}, 0)


def test_the_picture_shows_both_kinds_of_load() -> None:
    answers = [Answer(0.0, 0.0, 0.5, Outcome("OK", 1))]
    stages = [figures(Stage(callers=n), answers, 1) for n in (1, 4)]
    stages += [figures(Stage(rate=5.0), answers, 1), figures(Stage(rate=9.0), [], 1)]
    assert ElementTree.fromstring(load_chart(stages, ".svg")).tag.endswith("svg")
    assert load_chart(stages, ".svg") == load_chart(stages, ".svg")
    assert load_chart(stages[:1], ".png").startswith(b"\x89PNG")
