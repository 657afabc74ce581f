import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from PIL import Image

from msd_ray.evaluation import Row, Scores
from msd_ray.evaluation.run_page import ReportContent, SampleGrids, write_report, write_samples
from msd_ray.storage import Store

EVIL = "<script>alert(1)</script> $5 \" '"


class Page(HTMLParser):
    """Collects what a browser would do with a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def curves() -> pd.DataFrame:
    rows = [
        (student, stage, nimg + start, name, 1.0 + student + nimg)
        for student in (0, 1)
        for stage, start in (("warm-up", 0), (EVIL, 400))
        for nimg in (100, 200, 300, 400)
        for name in ("dm", "fid", EVIL)
    ]
    return pd.DataFrame(rows, columns=["student", "stage", "nimg", "name", "value"])


def grids(*shape: int) -> SampleGrids:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *shape, generator=rng)
    return SampleGrids(x, x / 2, [EVIL, "one"], [1, 0], of_points=len(shape) == 1)


def page(tmp_path: Path, samples: SampleGrids | None) -> Page:
    rows = [Row(EVIL, Scores(359, 4.0571, 0.01, 0.9, 0.8, 0.7, missing="no ratio"))]
    recipe = {"stages": {"first": {"images": 400, "note": EVIL}}, "betas": (0.0, 0.99)}
    write_report(Store(str(tmp_path)), ReportContent(EVIL, recipe, rows, curves(), samples, [EVIL]))
    return Page((tmp_path / "report.html").read_text())


def test_the_report_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    for samples in (grids(1, 8, 8), grids(3, 8, 8), grids(2), None):
        report = page(tmp_path, samples)
        assert report.open == []
        assert all(address.startswith("data:image/") for address in report.addresses)
        text = (tmp_path / "report.html").read_text()
        assert not re.search(r"https?://|@import|url\(", text)
        assert "link" not in report.tags


def test_nothing_in_the_report_can_run(tmp_path: Path) -> None:
    report = page(tmp_path, grids(1, 8, 8))
    assert "script" not in report.tags
    assert report.text.count("<script>alert(1)</script>") >= 5  # shown as text


def test_the_report_shows_table_samples_curves_and_recipe(tmp_path: Path) -> None:
    report = page(tmp_path, grids(1, 8, 8))
    assert f"{EVIL}: no ratio" in report.text
    assert "4.06@359" in report.text and "images: 400" in report.text
    kinds = [address.split(";")[0] for address in report.addresses]
    assert kinds == ["data:image/png"] * 4 + ["data:image/svg+xml"] * 3
    picture = Image.open(io.BytesIO(base64.b64decode(report.addresses[0].split(",")[1])))
    assert picture.size == (6 * 26, 6 * 8)  # three tiles and the gaps between them, enlarged sixfold


def test_a_run_without_curves_still_has_a_report(tmp_path: Path) -> None:
    content = ReportContent("early", {}, [], curves()[:0])
    write_report(Store(str(tmp_path)), content)
    assert "img" not in Page((tmp_path / "report.html").read_text()).tags


def test_trunk_and_branches_stand_in_a_table(tmp_path: Path) -> None:
    tree = [
        {"student": "trunk", "branches off from": "", "images": "960"},
        {"student": EVIL, "branches off from": "trunk", "images": "1,600"},
    ]
    write_report(Store(str(tmp_path)), ReportContent("t", {}, [], curves()[:0], tree=tree))
    found = Page((tmp_path / "report.html").read_text())
    assert found.open == [] and "Trunk and branches" in found.text
    assert all(cell in found.text for row in tree for cell in (*row, *row.values()))
    write_report(Store(str(tmp_path)), ReportContent("t", {}, [], curves()[:0]))
    assert "Trunk" not in (tmp_path / "report.html").read_text()


def test_the_same_content_makes_the_same_report_and_leaves_matplotlib_alone(tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    for name in ("a", "b"):
        page(tmp_path / name, grids(2))
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()
    assert dict(matplotlib.rcParams) == settings


def test_samples_png_opens(tmp_path: Path) -> None:
    for shape in ((1, 8, 8), (3, 8, 8), (2,)):
        write_samples(Store(str(tmp_path)), grids(*shape))
        with Image.open(tmp_path / "samples.png") as picture:
            picture.load()
            assert picture.width == 1500


def test_previews_are_in_the_page_with_what_their_rows_are(tmp_path: Path) -> None:
    png = b"any picture"
    content = ReportContent("t", {}, [], curves(), previews={EVIL: [(960, png), (1_920, png)]}, preview_rows=["a", "b"])
    write_report(Store(str(tmp_path)), content)
    found = Page((tmp_path / "report.html").read_text())
    assert "1,920 images" in found.text
    assert "Rows from the top: a, b." in found.text
    assert sum(a == f"data:image/png;base64,{base64.b64encode(png).decode()}" for a in found.addresses) == 2
