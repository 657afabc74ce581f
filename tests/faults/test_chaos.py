"""Eight students on two slots of a cluster whose nodes come and go: benchmarks/chaos.py with few events."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def test_all_students_get_through_as_if_nothing_had_happened() -> None:
    command = [sys.executable, str(SCRIPT), "--events", "5", "--images", "1280", "--patience", "1", "3"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=580)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["events"].values()) == 5
    for what in ("all_done", "bit_identical", "no_checkpoint_lost", "nothing_left_behind"):
        assert found[what] is True, what
