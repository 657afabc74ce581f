"""What is told of a trainer while it trains."""

import math

from msd_ray.training.metrics import Metric, newest_loss


def test_the_newest_loss_is_the_first_of_those_logged_last() -> None:
    rows = [
        ("dm", 160, "fake_score", 3.0),
        ("dm", 160, "dm", 2.0),
        ("dm", 320, "fake_score", 1.5),
        ("dm", 320, "dm", 1.0),
    ]
    beside = [("dm", 320, "wall_seconds", 9.0), ("dm", 320, "fid@16", 8.0), ("dm", 480, "skipped", 1.0)]
    assert newest_loss([Metric(*row) for row in [*rows, *beside]]) == 1.5
    assert math.isnan(newest_loss([Metric(*row) for row in beside]))
