import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "one_student.py"


def test_the_example_brings_the_student_nearer_to_its_teacher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--quick"])
    before, after = runpy.run_path(str(SCRIPT))["main"]()
    assert after < 0.75 * before
    out = capsys.readouterr().out
    assert "35 -> 1" in out
    assert "class" in out
