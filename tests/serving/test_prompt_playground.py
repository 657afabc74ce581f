"""The playground of an ensemble that takes prompts: a box, a map of the parts, and who made what."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from msd_ray.conditions import PartitionConfig, Place
from msd_ray.ensemble import Ensemble
from msd_ray.serving.service.request import Limits

from .browser import Page
from .conftest import Running, running
from .prompts import saved_prompts
from .test_playground import DONE, PROBLEM, UNNAMED, click, enter, in_browser

TILES = """[...document.querySelectorAll('.tile')].map((tile) => [tile.querySelector('.prompt').textContent,
    ...[...tile.querySelectorAll('.said span:not(.dot)')].map((part) => part.textContent)])"""
DOTS = """[...document.querySelectorAll('.plane circle')].map((dot) => [
    dot.style.getPropertyValue('--hue'), dot.querySelector('title').textContent])"""
HUES = "[...document.querySelectorAll('.owner')].map((owner) => owner.style.getPropertyValue('--hue'))"
SHOWN = "[...document.querySelectorAll('.tile img')].map((img) => img.src)"
ASKED = ["a red heart", "<b>car</b> & house", "сердце ❤️"]


@pytest.fixture(scope="module")
def by_letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    """Four parts of prompts, by their vectors."""
    uri = saved_prompts(tmp_path_factory.mktemp("prompts"), 4)
    with running([uri], Limits(images=32)) as it:
        yield it, uri


@in_browser
def test_prompts_one_a_line_with_student_and_margin(page: Page, by_letters: tuple[Running, str]) -> None:
    (it, uri), n = by_letters, len(ASKED)
    page.problems.clear()
    page.asked.clear()
    page.open(it.url)
    page.wait("document.querySelectorAll('.plane polygon').length === 4")
    assert page.do("document.getElementById('class').checkVisibility()") is False
    assert page.do("document.getElementById('make').disabled")
    enter(page, "prompts", "\\n".join(["", *ASKED, " a red heart ", ""]))
    enter(page, "each", "2")
    assert page.do("document.getElementById('make').textContent") == "Make 6 images"
    click(page, "make")
    page.wait(DONE)
    ensemble = Ensemble.load(uri)
    places = ensemble.partition.place(ensemble.conditions, ASKED)
    expected = [
        [text, f"student {place.part}", f"#{seed}", f"margin {place.margin:.2f}"]
        for text, place in zip(ASKED, places, strict=True)
        for seed in (0, 1)
    ]
    assert [tile[:-1] for tile in page.do(TILES)] == expected
    hues, dots = page.do(HUES), page.do(DOTS)
    assert [hue for hue, _ in dots] == [hues[place.part] for place in sorted_as(dots, places)]
    body = {"conditions": [text for text in ASKED for _ in (0, 1)], "seeds": [0, 1] * n}
    same = requests.post(f"{it.url}/v1/generate", json=body, timeout=30).json()["images"]
    shown = page.do(SHOWN)
    assert shown == [f"data:image/png;base64,{image['data']}" for image in same]
    assert not page.problems
    assert all(url.startswith((it.url, "data:", "about:")) for url in page.asked)


def sorted_as(dots: list[list[str]], places: list[Place]) -> list[Place]:
    """The places in the order of the dots, which is that in which images came."""
    return [places[next(i for i, text in enumerate(ASKED) if title.startswith(f"{text}: "))] for _, title in dots]


@in_browser
def test_an_address_with_prompts_gives_the_same_images_again(page: Page, by_letters: tuple[Running, str]) -> None:
    it, _ = by_letters
    page.open(it.url)
    page.wait("document.querySelector('.plane')")
    enter(page, "prompts", "\\n".join(ASKED))
    enter(page, "each", "1")
    enter(page, "seed", "7")
    click(page, "make")
    page.wait(DONE)
    first, address = (
        page.do(SHOWN),
        page.do("location.href"),
    )
    assert address.startswith(f"{it.url}/#prompt=a+red+heart&prompt=") and address.endswith("&each=1&seed=7")
    page.open(address)
    page.wait(DONE)
    assert page.do("document.getElementById('prompts').value.split('\\n')") == ASKED
    assert page.do(SHOWN) == first


@in_browser
def test_what_is_no_prompt_is_told_in_a_line(page: Page, by_letters: tuple[Running, str]) -> None:
    it, _ = by_letters
    page.open(it.url)
    page.wait("document.querySelector('.plane')")
    enter(page, "prompts", "red\\u0007heart")
    click(page, "make")
    page.wait(f"{PROBLEM} !== ''")
    assert "must not have control characters" in page.do(PROBLEM)


@in_browser
def test_words_that_choose_students_are_shown_and_prompts_below_them(page: Page, tmp_path: Path) -> None:
    by_words = PartitionConfig(2, "keywords", keywords=(("heart", "car"),))
    with running([saved_prompts(tmp_path, 2, config=by_words)], Limits()) as it:
        page.open(f"{it.url}/#prompt=a+red+heart&prompt=a+house&each=1&seed=0")
        page.wait(DONE)
        cards = page.do("[...document.querySelectorAll('.part')].map((part) => part.innerText.split('\\n'))")
        assert [card[2:] for card in cards] == [["heart", "car", "a red heart"], ["all other prompts", "a house"]]
        assert page.do("document.querySelectorAll('.plane').length") == 0


@in_browser
def test_the_page_of_prompts_fits_a_phone_and_names_everything(page: Page, by_letters: tuple[Running, str]) -> None:
    it, _ = by_letters
    page.open(f"{it.url}/#prompt=a+red+heart&prompt={'x' * 900}&each=1&seed=0")
    page.wait(DONE)
    assert page.do(UNNAMED) == []
    for width in (320, 1100):
        page.look(width, 800, "light")
        assert page.do("document.documentElement.scrollWidth") <= width
