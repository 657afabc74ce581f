import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "adapters.py"


@pytest.mark.slow
def test_adapters_take_little_more_room_than_one_student() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK), "--quick"], capture_output=True, text=True, check=True)
    rows = {row["ensemble"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert rows["all weights"]["disk_mib"] > 4.9 * rows["one student"]["disk_mib"]
    assert rows["adapters"]["disk_mib"] < 1.6 * rows["one student"]["disk_mib"]
    assert all(row["memory_mib"] > 0 and row["ms_per_image"] > 0 for row in rows.values())
