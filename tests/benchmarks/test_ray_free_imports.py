import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKER = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "pydantic", "pyarrow", "sklearn", "safetensors", "pandas", "scipy"}:
            raise ModuleNotFoundError(f"{name} is not on a bare GPU machine")

sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKER + code], capture_output=True, text=True, cwd=ROOT)


def test_the_layers_below_the_cluster_need_neither_ray_nor_what_comes_with_it() -> None:
    layers = ["diffusion", "networks", "objectives", "teachers", "training.student_trainer"]
    done = run("\n".join(f"import msd_ray.{layer}" for layer in layers))
    assert done.returncode == 0, done.stderr


def test_the_gpu_benchmark_imports_on_a_bare_machine() -> None:
    done = run("sys.path.insert(0, 'benchmarks')\nimport gpu")
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = run("import msd_ray.storage")
    assert done.returncode != 0
    assert "bare GPU machine" in done.stderr
