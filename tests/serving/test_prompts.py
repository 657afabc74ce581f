"""Prompts in the service: routed one by one, the same bits as `generate`, refused in one line."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import torch

from msd_ray.conditions import ConditionsConfig, Partition, PartitionConfig, Table, encoder_files
from msd_ray.conditions.clip_text import ClipText
from msd_ray.conditions.rules import Keywords
from msd_ray.ensemble import Ensemble, save_ensemble
from msd_ray.errors import UserError
from msd_ray.serving.client import Client, RefusedError
from msd_ray.serving.client.calls import NEVER
from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service.deny import function_of
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.request import ImageRequest, Limits
from msd_ray.serving.service.versions import Traffic
from msd_ray.storage import Store

from ..pipelines import write_text_encoder
from .asking import routed
from .conftest import Running, running
from .prompts import PROMPTS, random_members, saved_prompts

UNSEEN = ("a red heart", "Haus am Meer", "❤️ 🚗", "сердце", "red", "blue green house of hearts")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_prompts(tmp_path_factory.mktemp("prompts"))


@pytest.fixture(scope="module")
def it(uri: str) -> Iterator[Running]:
    with running([uri], Limits()) as service:
        yield service


def test_a_version_has_the_rule_and_no_text(uri: str) -> None:
    version = describe(uri)
    traffic = Traffic((version,), (1.0,))
    kept = json.dumps(traffic.to_json())
    assert "heart" not in kept and Traffic.from_json(json.loads(kept)) == traffic
    assert version.labels == [] and version.ids_of(0) == []


def test_prompts_go_where_generate_sends_them(uri: str) -> None:
    asked, ensemble = (*PROMPTS, *UNSEEN), Ensemble.load(uri)
    traffic = Traffic((describe(uri),), (1.0,))
    found = {
        item.index: (part_request.part, item.margin, item.prompt, item.class_id)
        for part_request in routed(ImageRequest(asked, tuple(range(len(asked)))), traffic)
        for item in part_request.items
    }
    places = ensemble.partition.place(ensemble.conditions, asked)
    assert found == {i: (p.part, p.margin, asked[i], 0) for i, p in enumerate(places)}


def test_64_prompts_at_once_have_the_bits_of_generate(it: Running, uri: str) -> None:
    rng, ensemble = random.Random(0), Ensemble.load(uri)
    asked = [(rng.choice([*PROMPTS, *UNSEEN]), rng.getrandbits(63)) for _ in range(64)]
    with Client(it.address) as client, ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda pair: client.generate([pair[0]], [pair[1]], "float32")[0], asked))
    for (text, seed), image in zip(asked, made, strict=True):
        assert np.array_equal(image.array(), ensemble.generate([text], [seed])[0].numpy())
        assert (image.prompt, image.class_id) == (text, 0)


def test_images_say_prompt_students_and_margin_over_http_as_well(it: Running, uri: str) -> None:
    ensemble = Ensemble.load(uri)
    (place,) = ensemble.partition.place(ensemble.conditions, ["a red heart"])
    answer = requests.post(f"{it.url}/v1/generate", json={"conditions": ["a  red heart"], "seeds": [1]}, timeout=60)
    (image,) = answer.json()["images"]
    assert (image["prompt"], image["students"], image["margin"]) == ("a red heart", [place.part], place.margin)
    with Client(it.address) as client:
        (version,) = client.ensemble().versions
        assert version.takes_prompts and not version.labels
    costs = [
        (r.x - image["position"][0]) ** 2 + (r.y - image["position"][1]) ** 2 + r.weight for r in version.map.regions
    ]
    assert costs.index(min(costs)) == place.part


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("", r"conditions\[1\]: a prompt must not be empty"),
        ("x" * 10_000, r"conditions\[1\]: a prompt has at most 1,000 characters, not 10,000"),
        ("a\x07b", r"conditions\[1\]: a prompt must not have control characters"),
        (3, r"conditions\[1\]: ask with a prompt, a text, not with the number 3"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(it: Running, asked: int | str, message: str) -> None:
    with Client(it.address) as client, pytest.raises(RefusedError, match=f"INVALID_ARGUMENT: {message}") as refused:
        client.generate(["red heart", asked], [0, 1])
    assert "\n" not in str(refused.value)


def test_half_a_character_is_refused(uri: str) -> None:
    with pytest.raises(Refusal, match="halves of others"):
        routed(ImageRequest(("\ud83d",), (0,)), Traffic((describe(uri),), (1.0,)))


def test_an_ensemble_whose_text_encoder_is_gone_or_another_is_not_served(tmp_path: Path) -> None:
    config = tmp_path / "pipeline" / "text_encoder" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"architectures": ["CLIPTextModel"], "hidden_size": 32}))
    asked = ConditionsConfig("prompts", {"embedder": "clip", "encoder": str(tmp_path / "pipeline")})
    partition = Partition("keywords", Table((0,)), (), Keywords())
    made = Store(str(tmp_path / "made"))
    save_ensemble(made, {"conditions": vars(asked)}, partition, (), random_members(1))
    assert describe(made.uri).rule == {"rule": "keywords", "words": []}
    config.write_text(json.dumps({"architectures": ["CLIPTextModel"], "hidden_size": 64}))
    with pytest.raises(UserError, match="has another width than its students take"):
        describe(made.uri)
    config.unlink()
    with pytest.raises(UserError, match=r"conditions\.options\.encoder: .*pipeline has no text_encoder"):
        describe(made.uri)


def heartless(prompt: str) -> str:
    """A deny list that fails where it is asked about a wolf."""
    if "wolf" in prompt:
        raise KeyError(prompt)
    return "no hearts here" if "heart" in prompt else ""


def test_a_deny_list_is_asked_before_anything_is_made(uri: str) -> None:
    with running([uri], Limits(deny=f"{__name__}:heartless")) as it, Client(it.address) as client:
        assert len(client.generate(["a red car"], seeds=[1])) == 1
        for ask in (client.generate, lambda asked, seeds: list(client.stream(asked, seeds))):
            with pytest.raises(RefusedError, match=r"conditions\[1\]: no hearts here"):
                ask(["a car", "a  HEART heart"], [1, 2])
        answer = requests.post(f"{it.url}/v1/generate", json={"conditions": ["heart"], "seeds": [1]}, timeout=30)
        assert answer.status_code == 400 and "no hearts here" in answer.text
        with pytest.raises(Exception, match="deny list failed; nothing was made"):
            client.generate(["wolf"], seeds=[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere:deny", "limits.deny: 'nowhere:deny' cannot be imported"), (f"{__name__}:UNSEEN", "is not a function")],
)
def test_a_deny_list_that_cannot_be_had_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        function_of(name, "deny")


def test_each_prompt_passes_through_the_text_encoder_once(tmp_path: Path) -> None:
    write_text_encoder(tmp_path / "pipeline")
    encoder = {"embedder": "clip", "encoder": str(tmp_path / "pipeline")}
    uri, passes = saved_prompts(tmp_path / "made", conditions=ConditionsConfig("prompts", encoder)), list[None]()
    _, model = ClipText(encoder["encoder"]).files.open(torch.device("cpu"))  # the one of this process
    with running([uri], Limits()) as it, Client(it.address) as client:
        model.register_forward_hook(lambda *_: passes.append(None))
        made = client.generate(["a red heart", "car", "a red heart", "a red  heart"], [1, 1, 2, 1], "float32")
        assert len(passes) == 2
        assert made[0].data == made[3].data != made[2].data
        list(client.stream(["a green car"] * 5, range(5)))
        assert len(passes) == 3


def test_words_route_without_a_text_encoder_and_students_embed_once(tmp_path: Path) -> None:
    """Gateways need no encoder where the rule looks at words."""
    write_text_encoder(tmp_path / "pipeline")
    encoder = {"embedder": "clip", "encoder": str(tmp_path / "pipeline")}
    by_words = PartitionConfig(2, "keywords", keywords=(("heart",),))
    uri = saved_prompts(tmp_path / "made", 2, conditions=ConditionsConfig("prompts", encoder), config=by_words)
    (one, other) = routed(ImageRequest(("a heart", "a car"), (1, 2)), Traffic((describe(uri),), (1.0,)))
    assert (one.sample_ids, other.sample_ids) == ([("a heart", 1)], [("a car", 2)])
    with running([uri], Limits()) as it, Client(it.address) as client:
        made = client.generate(["a heart", "a car"], [1, 2], "float32")
    expected = Ensemble.load(uri).generate(["a heart", "a car"], [1, 2])
    assert [image.data for image in made] == [x.numpy().tobytes() for x in expected]


def test_prompts_are_unavailable_where_the_text_encoder_cannot_be_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_text_encoder(tmp_path / "pipeline")
    encoder = {"embedder": "clip", "encoder": str(tmp_path / "pipeline")}
    uri = saved_prompts(tmp_path / "made", conditions=ConditionsConfig("prompts", encoder))
    encoder_files._opened.cache_clear()
    (tmp_path / "pipeline" / "text_encoder" / "model.safetensors").write_bytes(b"nothing")
    caplog.set_level("ERROR")
    with running([uri], Limits()) as it, Client(it.address, retry=NEVER) as client:
        with pytest.raises(RefusedError) as told:
            client.generate(["a heart"])
        assert str(told.value) == "UNAVAILABLE: the text encoder is not ready; the gateway's log says why; try again"
        assert "conditions.options.encoder: " in caplog.text and " cannot be read" in caplog.text
