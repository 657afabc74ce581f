"""Whoever dies is back sooner the less its process loads."""

import subprocess
import sys

import pytest

HEAVY = ["pandas", "matplotlib", "scipy", "sklearn", "diffusers", "grpc"]


@pytest.mark.parametrize("module", ["msd_ray.cluster.students", "msd_ray.cluster.slot", "msd_ray.cluster.pool.replica"])
def test_students_and_teachers_load_nothing_that_they_do_not_need(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
