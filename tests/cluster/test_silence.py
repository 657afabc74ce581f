"""Which silences are suspected, and which are long enough to be the end."""

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.silence import BLINK, FACTOR, Silence, Suspect

FLOOR = 100.0


def at(nimg: int, beats: int = 0) -> Progress:
    return Progress(nimg, "dm", 1.0, done=False, beats=beats)


def suspects(silence: Silence, begin: float, end: float, excused: bool = False) -> list[Suspect]:
    """Those of checks at every second."""
    return [found for now in range(int(begin), int(end)) for found in silence.suspects(float(now), excused)]


def test_a_silent_process_is_suspected_and_then_lost() -> None:
    silence = Silence(FLOOR, 0.0)
    silence.begin(3, 0.0)
    assert suspects(silence, 0, 101) == []
    (suspect,) = suspects(silence, 101, 125)
    assert (suspect.slot, suspect.lost) == (3, False)
    assert suspect.reason == "no progress for 101 s; its process has not answered for 101 s"
    assert [found.lost for found in suspects(silence, 125, 127)] == [True]


def test_a_process_that_answers_without_getting_on_is_suspected_too() -> None:
    silence = Silence(FLOOR, 0.0)
    silence.begin(3, 0.0)
    for now in range(101):
        silence.hear(3, at(160), float(now))
        assert not list(silence.suspects(float(now)))
    suspected, lost = suspects(silence, 101, 127)
    assert (suspected.lost, suspected.reason) == (False, "no progress for 101 s, though its process answers")
    assert (lost.lost, lost.reason) == (True, "no progress for 126 s; its process has not answered for 26 s")


def test_whoever_gets_on_is_not_suspected_however_long_a_segment_takes() -> None:
    silence = Silence(FLOOR, 0.0)
    silence.begin(3, 0.0)
    for i in range(20):
        silence.hear(3, at(i // 2, beats=i), 50.0 * i)
        assert suspects(silence, 50 * i, 50 * i + 50) == []


def test_the_bound_grows_with_what_silences_are_like() -> None:
    silence = Silence(FLOOR, 0.0)
    silence.begin(3, 0.0)
    suspects(silence, 0, 90)
    silence.hear(3, at(160), 90.0)
    assert silence.bound == FACTOR * 90.0
    silence.end(3, 100.0)
    silence.begin(3, 100.0)
    assert suspects(silence, 100, 500) == []


def test_time_in_which_nobody_could_look_or_get_on_does_not_count() -> None:
    silence = Silence(FLOOR, 0.0)
    silence.begin(3, 0.0)
    silence.begin(4, 0.0)
    assert suspects(silence, 0, 60) == []
    assert suspects(silence, 60, 600, excused=True) == []
    assert suspects(silence, 600, 630) == []
    assert suspects(silence, 2000, 2005) == [], "the driver's machine slept"
    silence.forget(4)
    assert [found.slot for found in suspects(silence, 2005, 2020)] == [3]
    assert BLINK < FLOOR
