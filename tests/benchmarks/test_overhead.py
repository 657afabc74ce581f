import pytest
from overhead import MeasuredProgress, Observer, costs, with_ratios


def progress(nimg: int, process: float, teacher: float, **cpu: float) -> MeasuredProgress:
    wall = {"segment": 2 * cpu["segment"], "collect": 1.0 if nimg > 100 else 0.5}
    return MeasuredProgress(nimg, "dm", 1.0, False, process=process, teacher=teacher, cpu=cpu, wall=wall)


def figures() -> dict[str, float]:
    known = [
        progress(100, 5.0, 0.1, segment=1.0, submit=0.0, collect=0.0, probe=0.2, checkpoint=0.1),
        progress(300, 7.4, 0.3, segment=3.0, submit=0.1, collect=0.1, probe=0.4, checkpoint=0.2),
    ]
    return costs(Observer({"student 0": known, "student 1": known}), pool_seconds=0.9)


def test_costs_are_milliseconds_per_image_after_the_first_segment() -> None:
    found = figures()
    assert found["students"] == pytest.approx(2.4 / 200 * 1000)
    assert found["student_other_threads"] == pytest.approx(0.4 / 200 * 1000)
    assert found["student_probe"] == pytest.approx(1.0)
    assert found["probe_ms_per_segment"] == pytest.approx(200)
    assert found["pool"] == pytest.approx(0.9 / 600 * 1000)
    assert found["pool_maths"] == pytest.approx(1.0)
    assert found["waiting_share_of_wall"] == pytest.approx(0.125)


def test_parts_of_a_student_add_up() -> None:
    found = figures()
    parts = ["student_training", "student_requests", "student_other_threads", "student_probe", "student_checkpoint"]
    assert sum(found[part] for part in parts) == pytest.approx(found["students"])


def test_ratios() -> None:
    found = with_ratios({**figures(), "plain": 13.5, "plain_alone": 10.0}, every=600)
    assert found["ratio"] == pytest.approx(1.0)
    assert found["ratio_alone"] == pytest.approx(1.35)
    assert found["ratio_alone_projected"] == pytest.approx((13.5 - 1.5 + 0.5) / 10)
