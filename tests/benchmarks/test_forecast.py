import pytest
from forecast import compared

from msd_ray.cluster.planning.forecast import Forecast, StudentForecast
from msd_ray.runs.run_status import RunStatus, StudentStatus


def predicted(seconds: float, held: float) -> Forecast:
    return Forecast(seconds, 1.0, 0.0, 2, 1, 1, 0.1, 0.0, 0.0, [StudentForecast("student 0", 100, held, seconds)])


def stood(seconds: float) -> RunStatus:
    student = StudentStatus("student 0", "done", "dm", 100, 100, 9.0, 0.0, 0, seconds)
    return RunStatus(0.0, "host:1", True, 0, 360.0, 0.0, [student])


def test_ratios_are_predicted_over_measured() -> None:
    found = compared(predicted(22.0, held=8.0), 20.0, 1.0, stood(10.0))
    assert found["wall_seconds"]["ratio"] == pytest.approx(1.1)
    assert found["images_per_second"]["ratio"]["mean"] == pytest.approx(1.25)
    assert found["slot_hours"] == {"predicted": 0.1, "measured": 0.1}


@pytest.mark.parametrize(("seconds", "held", "within"), [(22.0, 9.0, True), (25.0, 9.0, False), (22.0, 7.0, False)])
def test_wall_time_and_every_student_must_be_close(seconds: float, held: float, within: bool) -> None:
    assert compared(predicted(seconds, held), 20.0, 1.0, stood(10.0))["is_within"] is within
