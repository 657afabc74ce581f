"""The log of a job's pods while it grows, against the API server double."""

from collections.abc import Callable

import pytest

from msd_ray.errors import UserError
from msd_ray.kubernetes.api import Api, connect
from msd_ray.kubernetes.logs import Tail
from msd_ray.kubernetes.rayjobs import SUBMITTER, follow

from .double import Double, Failure, submitter


@pytest.fixture
def api(server: Double) -> Api:
    return connect(None, None, lambda line: pytest.fail(line))


@pytest.fixture
def tail(server: Double, api: Api) -> Tail:
    server.objects["Pod", "a"] = submitter("a")
    return Tail(api, "job-name=digits-train", SUBMITTER)


def test_each_line_is_shown_once(server: Double, tail: Tail) -> None:
    for i in range(10):  # looks fall into the middle of seconds
        server.say("a", *[f"line {i}.{j}" for j in range(3)])
        assert tail.new_lines() == [f"line {i}.{j}" for j in range(3)]
        assert tail.new_lines() == []


def test_equal_lines_of_one_second_are_all_shown(server: Double, tail: Tail) -> None:
    server.say("a", "the same", "the same")
    assert tail.new_lines() == ["the same", "the same"]
    server.say("a", "the same", "", "a  b\r c")
    assert tail.new_lines() == ["the same", "", "a  b\r c"]


def test_a_look_costs_what_is_new_however_long_the_log_is(server: Double, tail: Tail) -> None:
    server.say("a", *["x" * 100] * 30_000)
    assert len(tail.new_lines()) == 10_000, "the newest ones"
    server.sent = 0
    for _ in range(10):
        server.say("a", "new")
        assert tail.new_lines() == ["new"]
    assert server.sent < 10 * 1000


def test_a_log_that_was_cut_at_its_beginning(server: Double, tail: Tail) -> None:
    """A kubelet rotates files: what is old is gone, also the line that was shown last."""
    server.say("a", *[f"old {i}" for i in range(20)])
    tail.new_lines()
    server.logs["a"].clear()
    assert tail.new_lines() == []
    server.say("a", "new")
    assert tail.new_lines() == ["new"]


def test_a_new_pod_is_shown_from_its_beginning(server: Double, tail: Tail) -> None:
    """KubeRay tries a job again with another pod."""
    server.say("a", "first", "second")
    tail.new_lines()
    del server.objects["Pod", "a"]
    server.objects["Pod", "b"] = submitter("b")
    server.say("b", "first again")
    assert tail.new_lines() == ["first again"]


def test_no_pod_then_one_that_starts_then_a_log(server: Double, api: Api) -> None:
    """From `submit` on, until the job is done."""
    server.objects["RayJob", "digits-train"] = {"metadata": {"name": "digits-train"}}
    server.starting.add("a")
    steps: list[Callable[[], object]] = [
        lambda: server.objects.update({("Pod", "a"): submitter("a")}),
        lambda: server.starting.clear(),
        lambda: server.say("a", "training"),
        lambda: server.objects["RayJob", "digits-train"].update(status={"jobDeploymentStatus": "Complete"}),
    ]
    shown, said = list[str](), list[str]()
    follow(api, "digits-train", shown.append, said.append, sleep=lambda _: steps.pop(0)())
    assert shown == ["training"]
    assert said == ["digits-train: Waiting", "digits-train: Complete"]
    assert not steps


def test_a_node_that_does_not_answer_is_asked_again(server: Double, tail: Tail) -> None:
    """The pod's node was taken away, which is no reason to end."""
    server.say("a", "before")
    server.failures = [Failure("GET", "pods", 500, "dial tcp 10.0.0.7:10250: connect: connection refused", log=True)]
    assert tail.new_lines() == []
    assert tail.new_lines() == ["before"]


def test_who_may_not_read_logs_is_told_which_right_is_missing(server: Double, tail: Tail) -> None:
    said = 'pods "a" is forbidden: User "me" cannot get resource "pods/log" in API group "" in the namespace "team"'
    server.failures = [Failure("GET", "pods", 403, said, log=True)]
    with pytest.raises(UserError, match=r"^you may not get pods/log in namespace team: ask for a Role with that"):
        tail.new_lines()
