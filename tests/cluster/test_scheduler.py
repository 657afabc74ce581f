"""Who trains where next: without Ray and without a clock."""

import random
from collections import Counter

from msd_ray.cluster.scheduler import Scheduler


def test_students_take_turns_by_images_seen() -> None:
    s, trained = Scheduler("fair", [0] * 5), [0] * 5
    for slot in (0, 1):
        s.arrive(slot)
    running = dict(s.assign())
    for turn in range(40):
        slot = turn % 2
        student = running.pop(slot)
        trained[student] += 10
        s.wait(student, trained[student])
        s.arrive(slot)
        running |= dict(s.assign())
        assert max(trained) - min(trained) <= 20
    assert sum(trained) == 400


def test_a_student_comes_back_to_its_slot() -> None:
    s = Scheduler("fair", [0] * 4)
    s.arrive(0)
    s.arrive(1)
    homes: dict[int, list[int]] = {}
    pairs = s.assign()
    for round_ in range(1, 9):
        for slot, student in pairs:
            homes.setdefault(student, []).append(slot)
            s.wait(student, 10 * ((round_ + 1) // 2))
            s.arrive(slot)
        pairs = s.assign()
    assert all(len(set(slots)) == 1 for slots in homes.values())
    assert Counter(slots[0] for slots in homes.values()) == {0: 2, 1: 2}


def test_sequential_trains_the_lowest_number_to_its_end() -> None:
    s, order = Scheduler("sequential", [0] * 3), []
    s.arrive(7)
    for nimg in (10, 20, 30, 10, 20, 30):
        ((slot, student),) = s.assign()
        order.append(student)
        if nimg < 30:
            s.wait(student, nimg)
        s.arrive(slot)
    assert order == [0, 0, 0, 1, 1, 1]


def test_the_one_that_is_behind_catches_up_first() -> None:
    s = Scheduler("fair", [40, 10, 30])
    s.arrive(0)
    assert s.assign() == [(0, 1)]


def test_who_lived_in_a_slot_that_is_gone_lives_nowhere() -> None:
    s = Scheduler("fair", [0, 0])
    s.arrive(0)
    assert s.assign() == [(0, 0)]
    assert s.at_home(0) == {0}
    s.leave(0)
    assert s.at_home(0) == frozenset()
    s.wait(0, 0)
    s.arrive(1)
    assert s.assign() == [(1, 0)]
    assert s.at_home(1) == {0}


def test_nobody_is_lost_or_doubled_whatever_happens() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        s, nimg = Scheduler(rng.choice(["fair", "sequential"]), [0] * 7), [0] * 7
        slots, running, born = set[int](), dict[int, int](), 0
        for _ in range(200):
            match rng.choice(["arrive", "leave", "end", "end"]):
                case "arrive":
                    slots.add(born)
                    s.arrive(born)
                    born += 1
                case "leave" if slots:
                    slot = rng.choice(sorted(slots))
                    slots.remove(slot)
                    s.leave(slot)
                    if slot in running:
                        student = running.pop(slot)
                        s.wait(student, nimg[student])
                case "end" if running:
                    slot = rng.choice(sorted(running))
                    student = running.pop(slot)
                    nimg[student] += 10
                    s.wait(student, nimg[student])
                    s.arrive(slot)
            for slot, student in s.assign():
                assert slot in slots and slot not in running and student not in running.values()
                running[slot] = student
            assert len(running) + s.waiting == 7
            assert len(running) == min(7, len(slots))
            assert all(student in s.at_home(slot) for slot, student in running.items())
