"""The operator's function that sees images before their callers do."""

import threading
import time

import numpy as np
import pytest
import requests
from PIL import Image

from msd_ray.errors import UserError
from msd_ray.serving.client import Client, RefusedError
from msd_ray.serving.service.config import parse_config
from msd_ray.serving.service.deny import function_of
from msd_ray.serving.service.request import Limits
from msd_ray.serving.service.withhold import Seen

from .conftest import running

seen = list[tuple[str, Seen, int]]()


def no_threes(asked: str, image: Seen) -> str:
    seen.append((asked, image, threading.get_ident()))
    if asked == "digit 7":
        raise KeyError("secret")
    return "no threes today" if asked == "digit 3" else ""


def slow(asked: str, image: Seen) -> str:
    time.sleep(0.2)
    return ""


def test_images_are_withheld_before_they_are_sent(tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    seen.clear()
    with running([tiny], Limits(withhold=f"{__name__}:no_threes")) as it, Client(it.address) as client:
        made = client.generate([1, 2], seeds=[0, 1], format="float32")
        shown_for = {asked: shown for asked, shown, _ in seen}  # two students' images come in any order
        assert len(seen) == 2 and sorted(shown_for) == ["digit 1", "digit 2"]
        for image, asked in zip(made, ("digit 1", "digit 2"), strict=True):
            assert np.array_equal(image.array(), shown_for[asked])  # float32 does not get around it
        picture = client.generate([1], seeds=[0])[0].picture()
        shown = seen[-1][1]
        assert isinstance(shown, Image.Image) and shown.tobytes() == picture.tobytes()
        for ask in (client.generate, lambda asked, seeds: list(client.stream(asked, seeds))):
            with pytest.raises(RefusedError, match="no threes today") as told:
                ask([1, 3], [0, 0])
            assert told.value.code == "FAILED_PRECONDITION"
        answer = requests.post(f"{it.url}/v1/generate", json={"conditions": [3], "seeds": [1]}, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (409, "FAILED_PRECONDITION")
        with pytest.raises(RefusedError, match="the service's check of images failed; nothing was sent"):
            client.generate([7], seeds=[0])
        assert len({thread for _, _, thread in seen}) == 1 and "limits.withhold: KeyError" in caplog.text


def test_the_deadline_holds_while_images_are_checked(tiny: str) -> None:
    with running([tiny], Limits(withhold=f"{__name__}:slow")) as it, Client(it.address) as client:
        client.generate([1], seeds=[0])
        with pytest.raises(RefusedError) as told:
            client.generate([1] * 20, seeds=range(20), seconds=1.0)
        assert told.value.code == "DEADLINE_EXCEEDED"


def test_a_function_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(UserError, match=r"limits\.withhold: 'nowhere:f' cannot be imported"):
        function_of("nowhere:f", "withhold")
    with pytest.raises(UserError, match="withhold must be module:function"):
        parse_config({"limits": {"withhold": "words"}})


def test_withheld_images_count_for_a_quota(tiny: str) -> None:
    limits = Limits(withhold=f"{__name__}:no_threes", images_per_day=3)
    with running([tiny], limits) as it, Client(it.address, seconds=5) as client:
        for code in ("FAILED_PRECONDITION", "FAILED_PRECONDITION", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"):
            with pytest.raises(RefusedError) as told:
                client.generate([3], seeds=[0])
            assert told.value.code == code
