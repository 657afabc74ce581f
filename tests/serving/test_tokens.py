import re
from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.kubernetes.call import first_token
from msd_ray.serving.protocol.refusal import Refusal
from msd_ray.serving.service import tokens
from msd_ray.serving.service.tokens import Caller, Tokens, callers_of


def admitted(known: Tokens, header: str) -> bool:
    try:
        known.caller(header)
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
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "one",
        "Basic one",
        "Bearer on",
        "Bearer one two",
        "Bearer one name=x",
        "Bearer # a comment",
    ],
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


def test_a_token_says_who_has_it_and_what_they_may(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("one  name=alice weight=2 images_per_second=0.5 burst=7 images_per_day=1000\ntwo\nnew name=alice\n")
    known = Tokens(str(file))
    assert known.caller("Bearer one") == Caller("alice", 2.0, 0.5, 7, 1000)
    assert known.caller("Bearer new").name == "alice"
    unnamed = known.caller("Bearer two")
    assert re.fullmatch("token-[0-9a-f]{8}", unnamed.name) and unnamed == Caller(unnamed.name)
    assert Tokens().caller("") == Caller("anybody")


@pytest.mark.parametrize(
    "said", ["alice", "name", "nme=alice", "name=a/b", "weight=0", "weight=-1", "weight=nan", "burst=1.5", "burst=many"]
)
def test_a_line_that_is_wrong_is_named_but_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    with pytest.raises(UserError, match="line 3 of the tokens: after a token there may only be") as told:
        callers_of(["# all", "good name=x", f"secret {said}"])
    assert "secret" not in str(told.value) and told.value.__suppress_context__
    file = tmp_path / "tokens"
    file.write_text("good")
    known = Tokens(str(file))
    assert admitted(known, "Bearer good")
    file.write_text(f"better\nsecret {said}")
    assert admitted(known, "Bearer good") and not admitted(known, "Bearer better")
    assert "line 2 of the tokens" in caplog.text and "secret" not in caplog.text


def test_the_charts_own_call_takes_the_first_token() -> None:
    assert first_token("# ours\n\n  one name=alice\ntwo\n") == "one"
    with pytest.raises(IndexError):
        first_token("# none\n")
