"""How far a slot lets the workers of its student go, without any."""

import threading

import pytest

from msd_ray.cluster.progress import Progress
from msd_ray.cluster.ray_train.exchange import Exchange, Grant
from msd_ray.errors import TrainingError

LONG = 30.0  # seconds that no test waits


def at(nimg: int, done: bool = False) -> Progress:
    return Progress(nimg, "dm", 1.0, done)


def test_workers_go_as_far_as_was_ordered_and_the_slot_hears_of_it() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, ["teacher"])
    assert exchange.tell(at(0)) == Grant(320, ["teacher"])
    assert exchange.wait(0) is None
    exchange.tell(at(320))
    assert exchange.wait(LONG) == at(320)
    assert exchange.tell(None) == Grant(320, ["teacher"]), "they wait for the next order"
    exchange.order(320, ["another"])
    assert exchange.wait(0) is None
    assert exchange.tell(None) == Grant(640, ["another"])


def test_what_workers_tell_on_the_way_is_no_checkpoint() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, [])
    assert exchange.tell(None, live=at(160)) == Grant(320)
    assert (exchange.live, exchange.progress) == (at(160), at(0))
    exchange.tell(None)
    assert exchange.live == at(160)
    exchange.tell(at(0))
    assert exchange.live == at(0), "of workers that took over from dead ones"


def test_the_slot_waits_until_the_workers_tell() -> None:
    exchange, heard = Exchange(at(0)), []
    exchange.order(320, [])
    slot = threading.Thread(target=lambda: heard.append(exchange.wait(LONG)))
    slot.start()
    exchange.tell(at(160))
    exchange.tell(at(320))
    slot.join(LONG)
    assert heard == [at(320)]


def test_workers_that_take_over_from_dead_ones_carry_out_what_was_ordered() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, [])
    exchange.tell(at(320))
    exchange.order(320, [])
    assert exchange.tell(at(320)) == Grant(640), "from the newest checkpoint"
    assert exchange.tell(at(160)) == Grant(640), "from an older one, where that is damaged"
    assert exchange.wait(0) is None


def test_workers_are_to_end_when_the_student_is_done() -> None:
    exchange = Exchange(at(640))
    exchange.order(320, [])
    assert exchange.tell(at(800, done=True)).over
    assert exchange.wait(LONG) == at(800, done=True), "though more was ordered"
    exchange = Exchange(at(800, done=True))
    exchange.order(320, [])
    assert exchange.over, "none need begin"


def test_a_hurried_slot_waits_for_what_its_workers_still_have_to_tell() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, [])
    exchange.close()
    assert exchange.wait(0) is None
    assert exchange.tell(at(48)).over
    assert exchange.wait(0) is None
    exchange.end()
    assert exchange.wait(LONG) == at(48)


def test_after_a_rest_a_new_order_lets_new_workers_begin() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, [])
    exchange.tell(at(320))
    exchange.close()
    exchange.end()
    exchange.order(320, [])
    assert not exchange.over
    assert exchange.wait(0) is None


def test_what_a_worker_says_of_its_error_is_the_slots_once_all_have_ended() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, [])
    exchange.give_up("the gradient was not finite")
    assert exchange.tell(None).over, "nobody tries again"
    assert exchange.wait(0) is None
    exchange.end("worker 0: RuntimeError: connection closed by peer")
    with pytest.raises(TrainingError, match=r"^the gradient was not finite$"):
        exchange.wait(LONG)


def test_workers_that_cannot_be_had_are_an_error() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, [])
    exchange.end("its workers failed 4 times in a row")
    with pytest.raises(TrainingError, match="4 times"):
        exchange.wait(LONG)


def test_what_is_not_ours_ends_the_slot_and_not_the_student() -> None:
    exchange = Exchange(at(0))
    exchange.order(320, [])
    exchange.end("RaySystemError: no such thing", final=False)
    with pytest.raises(RuntimeError, match="RaySystemError"):
        exchange.wait(LONG)
    exchange.order(320, [])
    exchange.give_up("the gradient was not finite")
    exchange.end("RuntimeError: connection closed", final=False)
    with pytest.raises(TrainingError, match="not finite"):
        exchange.wait(LONG)
