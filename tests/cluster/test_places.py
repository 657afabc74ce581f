"""Places that kill their students, and students that die wherever they are."""

import pytest

from msd_ray.cluster.places import CHANCES, FIRST, Places

TWO = {"a": 1, "b": 1}


def placed(*where: str) -> Places:
    """Slots 0, 1, ... on these nodes, each "node" or "node/GPU"."""
    places = Places()
    for slot, place in enumerate(where):
        node, _, gpus = place.partition("/")
        places.up(slot, node, gpus, 0.0)
    return places


def test_a_node_on_which_two_students_died_is_shunned_and_they_are_not_to_blame() -> None:
    places = placed("a", "b")
    assert places.died(0, 7, 1.0, TWO) == {}
    assert places.failures(7) == 1 and not places.shuns(0, 1.0)
    assert places.died(0, 8, 2.0, TWO) == {"a": FIRST}
    assert (places.failures(7), places.failures(8)) == (0, 0)
    assert places.shuns(0, 2.0 + FIRST / 2) and not places.shuns(1, 2.0)
    assert not places.shuns(0, 2.0 + FIRST)


def test_each_time_it_is_shunned_for_longer_until_a_newer_process_makes_progress() -> None:
    places = placed("a", "b")
    places.died(0, 0, 0.0, TWO)
    assert [places.died(0, s, 100.0 * s, TWO)["a"] for s in (1, 2, 3)] == [FIRST, 2 * FIRST, 4 * FIRST]
    places.progressed(0, 4)  # of a process that began before the deaths
    assert places.shuns(0, 300.0)
    places.up(2, "a", "", 400.0)
    places.progressed(2, 4)
    assert not places.shuns(0, 400.0)
    assert places.died(0, 5, 500.0, TWO) == {}


def test_one_student_alone_can_tell_of_a_node() -> None:
    """Where there are no others: it goes elsewhere, and its deaths count again if it dies there too."""
    places = placed("a", "b")
    places.died(0, 0, 1.0, TWO)
    assert places.died(0, 0, 2.0, TWO) == {"a": FIRST}
    assert places.failures(0) == 0
    assert places.died(1, 0, 3.0, TWO) == {}
    assert places.failures(0) == 3
    assert places.died(1, 0, 4.0, TWO) == {}, "who dies everywhere says nothing of a node"
    assert places.failures(0) == 4


def test_one_student_that_can_go_nowhere_else_is_to_blame_in_the_end() -> None:
    places = placed("a", "b")
    for i in range(CHANCES + 1):
        places.died(0, 0, float(i), TWO)
        assert places.failures(0) == (0 if i else 1)
    places.died(0, 0, 10.0, TWO)
    assert places.failures(0) == CHANCES + 2


def test_the_last_place_is_never_shunned() -> None:
    places = placed("a", "b")
    for student in range(4):
        places.died(0, student, 1.0, TWO)
    for student in range(4, 8):
        assert places.died(1, student, 2.0, TWO) == {}
        assert places.failures(student) == 1
    assert places.died(1, 9, 2.0 + 16 * FIRST, TWO) == {"b": FIRST}, "a is tried again by then"


def test_a_gpu_is_shunned_before_its_node() -> None:
    places, eight = placed("a/0", "a/1"), {"a": 8}
    places.died(0, 0, 1.0, eight)
    assert places.died(0, 1, 2.0, eight) == {"a GPU 0": FIRST}
    assert places.shuns(0, 3.0) and not places.shuns(1, 3.0)
    assert places.died(1, 2, 4.0, eight) == {}, "there is no other node"
    assert places.died(1, 3, 5.0, {**eight, "b": 8}) == {"a GPU 1": FIRST, "a": FIRST}
    assert places.failures(3) == 0


@pytest.mark.parametrize("gpus", [1, 2])
def test_the_last_gpu_is_never_shunned(gpus: int) -> None:
    places = placed(*(f"a/{i}" for i in range(gpus)))
    shunned = [places.died(i % gpus, i, 1.0, {"a": gpus}) for i in range(8)]
    assert sum(map(len, shunned)) == (0 if gpus == 1 else 3)
    assert not all(places.shuns(slot, 1.0) for slot in range(gpus))
