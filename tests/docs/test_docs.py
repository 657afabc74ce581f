"""The documentation holds together: its links lead somewhere, its glossary names code that is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Of all headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?:", target):
            path, _, anchor = target.partition("#")
            goal = (page.parent / path).resolve() if path else page
            if not goal.exists() or (anchor and anchor not in anchors(goal)):
                yield target


def exists(name: str) -> bool:
    """Whether `package.module` or `package.module.Name` is in msd_ray. Nothing is imported."""
    module = ROOT.joinpath("msd_ray", *name.split("."))
    if module.with_suffix(".py").exists():
        return True
    file = module.parent.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8") if file.exists() else "")
    return module.name in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_broken_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, `so`\n\n[a](#a-heading-so) [b](#no) [c](page.md) [d](none.md) [e](https://example.com)\n"
    )
    assert list(broken(page)) == ["#no", "none.md"]


def test_the_glossary_names_what_is_there() -> None:
    named = re.findall(r"(?m)\| `([\w.]+)` \|$", GLOSSARY)
    assert len(named) > 50
    assert [name for name in named if not exists(name)] == []
    assert not exists("cluster.driver.Coachman") and not exists("cluster.coachman.Driver")


def test_the_glossary_has_each_term_once() -> None:
    terms = [term for line in re.findall(r"(?m)^\| ([^|]+) \|", GLOSSARY) for term in line.split(", ")]
    terms = [term for term in terms if term not in ("term", "---")]
    assert sorted(terms) == sorted(set(terms))
