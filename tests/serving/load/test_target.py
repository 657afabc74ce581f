"""What becomes of requests, counted by code, against a server that answers as it is told."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import grpc
import pytest

from msd_ray.errors import UserError
from msd_ray.serving.client import Connection
from msd_ray.serving.generated import ensemble_pb2 as pb
from msd_ray.serving.generated import ensemble_pb2_grpc as pb_grpc
from msd_ray.serving.load.figures import Figures
from msd_ray.serving.load.load_test import load_test
from msd_ray.serving.load.stages import Stage
from msd_ray.serving.load.target import Mix, checked

CLASSES = pb.Version(weight=1, labels=["cat", "dog"])
PROMPTS = pb.Version(weight=1, takes_prompts=True)


def served(version: pb.Version) -> pb.GetEnsembleResponse:
    return pb.GetEnsembleResponse(versions=[version], limits=pb.Limits(images=8))


class Told(pb_grpc.EnsembleServiceServicer):
    """Ends one call after the other with these codes, again and again; the first, which warms it up, with an image."""

    def __init__(self, *codes: str) -> None:
        self.codes, self.asked = cycle(codes), list[pb.GenerateRequest]()

    def GetEnsemble(self, request: Any, context: Any) -> pb.GetEnsembleResponse:  # noqa: N802
        return served(CLASSES)

    def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:  # noqa: N802
        self.asked.append(request)
        code = next(self.codes) if len(self.asked) > 1 else "OK"
        if code != "OK":
            context.abort(grpc.StatusCode[code], "as told")
        return pb.GenerateResponse(images=[pb.Image() for _ in request.conditions])


@contextmanager
def listening(servicer: Told) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_EnsembleServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def loaded(servicer: Told, tries: int, requests: int, images: int = 2) -> Figures:
    with listening(servicer) as address:
        stages, mix = [Stage(callers=1, seconds=60, requests=requests)], Mix((), images)
        work = load_test(
            Connection(address), stages, mix, 20.0, tries, lambda: False, lambda record: None, lambda stage: None
        )
        (found,) = asyncio.run(work)
    return found


def test_errors_are_counted_by_code() -> None:
    codes = ["OK", "RESOURCE_EXHAUSTED", "OK", "INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    found = loaded(Told(*codes), tries=1, requests=60)
    assert (found.requests, found.answered, found.images, found.retries) == (60, 20, 40, 0)
    assert found.errors == {"RESOURCE_EXHAUSTED": 20, "INTERNAL": 10, "UNAVAILABLE": 10}
    assert found.shed_share == 20 / 60


def test_tries_are_counted() -> None:
    found = loaded(Told("UNAVAILABLE", "OK", "UNAVAILABLE", "UNAVAILABLE"), tries=2, requests=4)
    assert (found.requests, found.answered, found.retries) == (4, 2, 4)
    assert found.errors == {"UNAVAILABLE": 2}


def test_the_same_seed_asks_for_the_same_images() -> None:
    one, other = Told("OK"), Told("OK")
    loaded(one, 1, 5)
    loaded(other, 1, 5)
    assert one.asked == other.asked
    seeds = [seed for request in one.asked[1:] for seed in request.seeds]
    assert len(set(seeds)) == len(seeds) == 10
    assert {c.class_id for request in one.asked for c in request.conditions} == {0, 1}


def test_more_images_than_a_request_may_have_are_refused() -> None:
    with pytest.raises(UserError, match="at most 8 images"):
        loaded(Told("OK"), 1, 1, images=9)


def test_conditions_are_checked() -> None:
    assert checked((), served(CLASSES)) == (0, 1)
    assert checked((1, "cat"), served(CLASSES)) == (1, "cat")
    assert checked(("a cat",), served(PROMPTS)) == ("a cat",)
    for wrong, of, said in (
        ((0, 2), CLASSES, "no class 2: it has 0 to 1"),
        (("bird",), CLASSES, "no class 'bird'"),
        ((), PROMPTS, "--prompts"),
        ((1,), PROMPTS, "--prompts"),
    ):
        with pytest.raises(UserError, match=said):
            checked(wrong, served(of))
