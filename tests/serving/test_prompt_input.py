"""Texts that nobody expects: each is answered or refused in one line, and the service is as it was before."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import grpc
import pytest
import requests

from msd_ray.conditions import PartitionConfig, fit, make_conditions
from msd_ray.conditions.partition import prepared
from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.serving.client import Client, RefusedError
from msd_ray.serving.client.calls import NEVER
from msd_ray.serving.service import versions
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.request import ImageRequest, Limits
from msd_ray.serving.service.versions import Traffic

from ..conditions.test_prompts import LANGUAGES
from .asking import routed
from .conftest import Running, running
from .prompts import CONDITIONS, PROMPTS, saved_prompts
from .test_bad_input import SERVICE, prompted

EMOJI = ("❤️", "👩‍🚀", "🇫🇷", "ﷺ", "a\u0301\u0323", "\u202eright to left", "\ufeffmark", "\u200b")
CONTROL = ("ab\u0007c", "\x1b[31m", "\x00", "\x7f")
GOOD = "a red heart"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_prompts(tmp_path_factory.mktemp("prompts"), 4)


@pytest.fixture(scope="module")
def it(uri: str) -> Iterator[Running]:
    with running([uri], Limits()) as service:
        yield service


def unseen(n: int) -> list[str]:
    """Texts of 0 to 10,000 characters: words of 20 languages, emoji, control characters, any other characters."""
    rng, words = random.Random(0), (*LANGUAGES, *EMOJI, *CONTROL, *PROMPTS, "", " \t\n")
    texts = ["", "x" * 1000, "x" * 1001, "x" * 10_000, *LANGUAGES, *EMOJI, *CONTROL]
    while len(texts) < n:
        any_of_all = "".join(
            chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])) for _ in range(9)
        )
        texts.append(" ".join(rng.choice([*words, any_of_all]) for _ in range(rng.choice([1, 2, 3, 30]))))
    return texts


@pytest.mark.slow
def test_a_thousand_unseen_prompts_are_routed_as_here_or_refused_in_a_line(it: Running, uri: str) -> None:
    ensemble, refused = Ensemble.load(uri), 0
    with Client(it.address) as client:
        before = client.generate([GOOD], [1])[0].data
        for text in unseen(1000):
            if why := refusal(ensemble, text):
                with pytest.raises(RefusedError) as told:
                    client.generate([text], [1])
                assert str(told.value) == f"INVALID_ARGUMENT: conditions[0]: {why}"
                assert "\n" not in why and len(why) < 200
                refused += 1
            else:
                (place,) = ensemble.partition.place(ensemble.conditions, [ensemble.conditions.id_of(text)])
                (image,) = client.generate([text], [1])
                assert (image.students, image.margin) == ((place.part,), place.margin)
        assert 50 < refused < 500
        assert client.generate([GOOD], [1])[0].data == before


def refusal(ensemble: Ensemble, text: str) -> str:
    try:
        ensemble.conditions.id_of(text)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"red\x80heart"])
def test_what_is_not_utf8_is_refused_over_grpc_and_http(it: Running, raw: bytes) -> None:
    with grpc.insecure_channel(it.address) as channel, pytest.raises(grpc.RpcError) as told:
        channel.unary_unary(f"{SERVICE}/Generate")(prompted(raw), timeout=20)
    assert told.value.code().name == "INVALID_ARGUMENT" and "\n" not in told.value.details()
    answer = requests.post(f"{it.url}/v1/generate", data=b'{"conditions": ["' + raw + b'"]}', timeout=30)
    assert answer.status_code == 400 and "\n" not in answer.json()["message"]
    assert served(it)


@pytest.mark.parametrize("text", ["\\ud83d", "\\udc00 heart", "\\u0000", "\\ud83d\\ud83d"])
def test_half_characters_and_nulls_in_json_are_refused(it: Running, text: str) -> None:
    answer = requests.post(f"{it.url}/v1/generate", data=f'{{"conditions": ["{text}"]}}'.encode(), timeout=30)
    assert answer.status_code == 400, answer.text
    assert "\n" not in answer.json()["message"]
    assert served(it)


def served(it: Running) -> bool:
    body = {"conditions": [GOOD], "seeds": [1]}
    return requests.post(f"{it.url}/v1/generate", data=json.dumps(body), timeout=30).ok


@pytest.mark.slow
def test_a_gateway_places_10_000_prompts_as_training_did(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The part of each id, by which a student's prompts are drawn, and the part that a gateway sends its text to."""
    texts = tuple(f"{word} {i}" for i in range(500) for word in LANGUAGES)
    known = make_conditions(CONDITIONS, texts)
    partition = fit(PartitionConfig(4, "kmeans"), known)
    uri = saved_prompts(tmp_path_factory.mktemp("many"), 4, texts)
    traffic, found = Traffic((describe(uri),), (1.0,)), {}
    for first in range(0, len(texts), 250):
        some = texts[first : first + 250]
        for part_request in routed(ImageRequest(some, tuple(range(len(some)))), traffic):
            found.update({first + item.index: part_request.part for item in part_request.items})
    assert [found[i] for i in range(10_000)] == list(partition.router.owners)
    assert set(found.values()) == {0, 1, 2, 3}


def test_the_client_refuses_half_a_character(it: Running) -> None:
    with Client(it.address) as client, pytest.raises(UserError) as told:
        client.generate(["\ud83d"], [1])
    assert "\n" not in str(told.value)
    assert served(it)


def test_a_gateway_answers_others_while_it_embeds_and_drops_what_is_late(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text encoder that does not come back, and a caller who waits half a second for ten prompts."""
    begun, gate = list[str](), Event()

    def slowly(rule: Any, conditions: Any, wanted: Any) -> Any:
        begun.extend(wanted)
        assert gate.wait(60)
        return prepared(rule, conditions, wanted)

    monkeypatch.setattr(versions, "prepared", slowly)
    with running([uri], Limits()) as it, ThreadPoolExecutor(1) as thread, Client(it.address, retry=NEVER) as client:
        late = thread.submit(client.generate, [f"house {i}" for i in range(10)], seconds=0.5)
        with pytest.raises(RefusedError, match="DEADLINE_EXCEEDED"):
            late.result()
        assert requests.get(f"{it.url}/livez", timeout=30).ok
        gate.set()
        assert client.generate([GOOD], [1], seconds=60)[0].prompt == GOOD
    assert begun == ["house 0", GOOD]
