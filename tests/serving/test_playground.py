"""The playground at /, in a browser where there is one."""

from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from msd_ray.ensemble import Ensemble
from msd_ray.serving.protocol.refusal import busy
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.request import Limits

from .browser import FOUND, Page
from .conftest import LocalStudents, Running, running
from .ensembles import POINTS, saved

in_browser = pytest.mark.skipif(not FOUND, reason="no chromium found: apt-get install chromium")
PRESSED = "[...document.querySelectorAll('.chip[aria-pressed=true]')].map((chip) => chip.textContent)"
DONE = "document.getElementById('progress').textContent.includes(' in ')"
PROBLEM = "document.getElementById('problem').textContent"
CHIPS = "[...document.querySelectorAll('.part')].map((p) => [...p.querySelectorAll('.chip')].map((c) => c.textContent))"
CAPTIONS = """[...document.querySelectorAll('.tile')].map(
    (tile) => [...tile.querySelectorAll('.said span:not(.dot)')].map((part) => part.textContent))"""
UNNAMED = """[...document.querySelectorAll('input, select, textarea, button, img, a')].filter(
    (e) => !(e.labels?.length || e.textContent.trim() || e.alt || e.title)).map((e) => e.outerHTML)"""


def click(page: Page, name: str) -> None:
    page.do(f"document.getElementById('{name}').click()")


def enter(page: Page, name: str, value: str) -> None:
    page.do(f"document.getElementById('{name}').value = '{value}'")
    page.do(f"document.getElementById('{name}').dispatchEvent(new Event('input'))")


@pytest.fixture
def opened(page: Page, service: Running) -> Page:
    """The page of a service without tokens, once it knows the ensemble."""
    page.problems.clear()
    page.asked.clear()
    page.open(service.url)
    page.wait("document.querySelectorAll('.chip').length === 10")
    return page


def test_its_files_are_there_for_all_and_hold_nothing_from_elsewhere(service: Running) -> None:
    for name in ("", "playground/main.js", "playground/page.css", "playground/map.js"):
        answer = requests.get(f"{service.url}/{name}", timeout=30)
        assert answer.status_code == 200
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace("HTTP", "")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert requests.get(f"{service.url}/playground/../playground.py", timeout=30).status_code == 404
    assert requests.get(f"{service.url}/playground/index.html", timeout=30).status_code == 404


@in_browser
def test_the_map_is_the_partition_and_a_click_selects(opened: Page, tiny: str) -> None:
    owners = Ensemble.load(tiny).partition
    assert opened.do(CHIPS) == [[f"digit {c}" for c in owners.router.ids_of(student).tolist()] for student in range(3)]
    click(opened, "none")
    assert opened.do(PRESSED) == []
    assert opened.do("document.getElementById('make').disabled")
    opened.do("document.querySelectorAll('.chip')[0].click()")
    assert len(opened.do(PRESSED)) == 1
    opened.do("document.querySelectorAll('.owner')[1].click()")
    assert {f"digit {c}" for c in owners.router.ids_of(1).tolist()} < set(opened.do(PRESSED))


@in_browser
def test_images_stream_into_their_tiles(opened: Page, service: Running, tiny: str) -> None:
    click(opened, "none")
    for typed in ("digit 3", "8"):
        enter(opened, "class", typed)
        click(opened, "add")
    enter(opened, "seed", "9223372036854775800")
    enter(opened, "each", "2")
    click(opened, "make")
    opened.wait(DONE)
    captions = opened.do(CAPTIONS)
    owners = Ensemble.load(tiny).partition.route(torch.tensor([3, 8])).tolist()
    assert [[label, by, seed] for label, _, by, seed in captions] == [
        [label, f"student {owner}", f"#922337203685477580{i}"]
        for label, owner in zip(["digit 3", "digit 8"], owners, strict=True)
        for i in (0, 1)
    ]
    assert all(caption[1].endswith(" ms") for caption in captions)
    asked = {"conditions": [3, 3, 8, 8], "seeds": [2**63 - 8, 2**63 - 7] * 2}
    same = requests.post(f"{service.url}/v1/generate", json=asked, timeout=30).json()["images"]
    shown = opened.do("[...document.querySelectorAll('.tile img')].map((img) => img.src)")
    assert shown == [f"data:image/png;base64,{image['data']}" for image in same]
    assert opened.do("[...document.querySelectorAll('.tile img')].every((img) => img.naturalWidth === 8 && img.alt)")
    assert opened.do("location.hash") == "#classes=3,8&each=2&seed=9223372036854775800"
    assert not opened.problems
    assert all(url.startswith((service.url, "data:", "about:")) for url in opened.asked)


@in_browser
def test_an_address_gives_the_same_images_again(page: Page, service: Running) -> None:
    page.open(f"{service.url}/#classes=1,4&each=3&seed=7")
    page.wait(DONE)
    assert set(page.do(PRESSED)) == {"digit 1", "digit 4"}
    assert page.do("document.querySelectorAll('.tile img').length") == 6


@in_browser
@pytest.mark.parametrize(
    ("field", "value", "button", "told"),
    [("class", "<b>cat</b>", "add", "“<b>cat</b>”"), ("seed", "9223372036854775808", "make", "seeds go up to")],
)
def test_what_cannot_be_is_told_in_a_line(opened: Page, field: str, value: str, button: str, told: str) -> None:
    enter(opened, "each", "1")
    enter(opened, field, value)
    click(opened, button)
    assert told in opened.do(PROBLEM)
    assert "\n" not in opened.do(PROBLEM)


@in_browser
def test_more_than_the_service_allows_cannot_be_asked_for(opened: Page) -> None:
    enter(opened, "each", "4")
    assert opened.do("document.getElementById('make').disabled")
    assert "at most 32" in opened.do("document.getElementById('make').textContent")


class FailsLate(LocalStudents):
    """Refuses one class, once others are made."""

    async def ask(self, part_request: Any, seconds: float) -> Any:
        made = await super().ask(part_request, seconds)
        if part_request.items[0].class_id == 9:
            raise busy("<img src=x onerror=alert(1)> full", 2.0)
        return made


@in_browser
def test_what_goes_wrong_halfway_is_told_as_text(page: Page, tiny: str) -> None:
    with running([tiny], Limits(), FailsLate(StudentConfig())) as it:
        page.problems.clear()
        page.open(f"{it.url}/#classes=0,9&each=1&seed=0")
        page.wait(f"{PROBLEM} !== ''")
        assert "full; try again in 2 s (RESOURCE_EXHAUSTED)" in page.do(PROBLEM)
        assert page.do("document.querySelectorAll('#problem img').length") == 0
    assert not page.problems or all("429" in problem for problem in page.problems)


@in_browser
def test_a_token_is_asked_for_where_one_is_needed(page: Page, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret")
    with running([tiny], Limits(), tokens=str(tmp_path / "tokens")) as it:
        page.open(it.url)
        page.wait("!document.getElementById('sign-in').hidden")
        for token, then in (
            ("wrong", f"{PROBLEM}.includes('not valid')"),
            ("secret", "document.querySelector('.chip')"),
        ):
            enter(page, "token", token)
            page.do("document.getElementById('sign-in').requestSubmit()")
            page.wait(then)
        enter(page, "each", "1")
        click(page, "make")
        page.wait(DONE)


@in_browser
def test_students_that_share_the_noise_levels_and_points(page: Page, tmp_path: Path) -> None:
    uri = saved(tmp_path, 2, 3, POINTS)
    with running([uri], Limits()) as it:
        page.open(f"{it.url}/#classes=0,1,2,3,4,5,6,7,8,9&each=2&seed=0")
        page.wait(DONE)
        levels = page.do("[...document.querySelectorAll('.levels')].map((l) => l.textContent)")
        assert len(levels) == 6
        assert " above " in levels[0] and " up to " in levels[2]
        assert page.do("document.querySelectorAll('#plane circle').length") == 20


@in_browser
def test_it_fits_a_phone(opened: Page) -> None:
    for width in (320, 1100):
        opened.look(width, 800, "light")
        assert opened.do("document.documentElement.scrollWidth") <= width


@in_browser
def test_everything_that_can_be_used_has_a_name(opened: Page) -> None:
    assert opened.do(UNNAMED) == []
