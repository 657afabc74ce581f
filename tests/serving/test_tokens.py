from pathlib import Path

import pytest

from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service import tokens
from msd_ray.serving.service.tokens import Tokens


def admitted(known: Tokens, header: str) -> bool:
    try:
        known.check(header)
    except Refusal as refusal:
        return refusal.kind != "UNAUTHENTICATED"
    return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the file every time."""
    monkeypatch.setattr(tokens, "LOOK_AGAIN", 0.0)
    monkeypatch.delenv(tokens.VARIABLE, raising=False)


def test_without_tokens_everybody_may_ask() -> None:
    assert admitted(Tokens(), "")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "one", "Basic one", "Bearer on", "Bearer one two", "Bearer # a comment"]
)
def test_what_is_no_valid_token_is_refused(tmp_path: Path, header: str) -> None:
    file = tmp_path / "tokens"
    file.write_text("# a comment\n\none\ntwo\n")
    assert admitted(Tokens(str(file)), "Bearer one")
    assert admitted(Tokens(str(file)), "bearer  two")
    assert not admitted(Tokens(str(file)), header)


def test_tokens_change_while_the_service_runs(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("old")
    known = Tokens(str(file))
    assert admitted(known, "Bearer old")
    file.write_text("new")
    assert admitted(known, "Bearer new")
    assert not admitted(known, "Bearer old")


def test_a_file_that_is_gone_leaves_the_tokens_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("one")
    known = Tokens(str(file))
    assert admitted(known, "Bearer one")
    file.unlink()
    assert admitted(known, "Bearer one")
    assert not admitted(known, "Bearer two")


def test_an_empty_or_missing_file_lets_in_nobody(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    assert not admitted(Tokens(str(tmp_path / "empty")), "Bearer ")
    assert not admitted(Tokens(str(tmp_path / "missing")), "Bearer x")


def test_tokens_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokens.VARIABLE, "one, two")
    assert admitted(Tokens(), "Bearer two")
    assert not admitted(Tokens(), "")
