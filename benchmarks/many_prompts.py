"""What a run of many prompts costs before its first update: CPU seconds, memory, and what is kept.

    python benchmarks/many_prompts.py [--prompts N] [--quick]

Prompts are made of words that are as frequent as 1/rank, of a vocabulary of 50,000. The process that plans reads them,
fits four clusters of hashed n-grams and places all; a second one plans again, with the partition in the cache; a third
is a student that reads its part and draws. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, say

VOCABULARY, WORDS = 50_000, 7


def write_prompts(path: Path, n: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    letters, lengths = rng.integers(97, 123, (VOCABULARY, 10), dtype=np.uint8), rng.integers(2, 11, VOCABULARY)
    words = np.array([bytes(row[:m]).decode() for row, m in zip(letters, lengths, strict=True)])
    shares = 1 / np.arange(1, VOCABULARY + 1)
    texts = [" ".join(row) for row in rng.choice(words, (n, WORDS), p=shares / shares.sum())]
    pq.write_table(pa.table({"text": texts}), path)


def planned(folder: Path, n: int) -> dict[str, Any]:
    """What a driver does before it gives orders."""
    from msd_ray.conditions import fit

    partition = fit(*_inputs(folder, n))
    files = {name: len(content) for name, content in partition.files.items()}
    return {"partition_json": len(json.dumps(partition.to_json())), **files}


def read_by_student(folder: Path, n: int) -> dict[str, Any]:
    import torch

    from msd_ray.conditions import fit

    config, conditions = _inputs(folder, n)
    owned = fit(config, conditions).owned_by(0, conditions)
    begin, rng = time.process_time(), torch.Generator().manual_seed(0)
    for _ in range(20):
        owned.draw(64, rng)
    return {"ms_per_64_drawn": round((time.process_time() - begin) / 20 * 1000, 2), "owned": len(owned.ids)}


def _inputs(folder: Path, n: int) -> Any:
    from msd_ray.conditions import ConditionsConfig, PartitionConfig, make_conditions

    conditions = make_conditions(ConditionsConfig("prompts", {"file": str(folder / "prompts.parquet")}), ())
    assert conditions.n == n
    return PartitionConfig(4, "kmeans"), conditions


def measured(name: str, folder: Path, n: int) -> dict[str, Any]:
    """In a process of its own, whose imports count for neither figure."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (name, folder, n))


def _measure(name: str, folder: Path, n: int) -> dict[str, Any]:
    for module in ("msd_ray.conditions.prompts", "sklearn.cluster", "sklearn.feature_extraction.text"):
        import_module(module)
    before, cpu, wall = _peak(), time.process_time(), time.perf_counter()
    found = globals()[name](folder, n)
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "mib": _peak() - before}
    return {key: round(value, 2) for key, value in spent.items()} | found


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="50,000 prompts")
    arguments = parser.parse_args()
    n = 50_000 if arguments.quick else arguments.prompts
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["MSD_RAY_CACHE"] = str(folder / "cache")
        write_prompts(folder / "prompts.parquet", n)
        results: dict[str, Any] = {"prompts": n}
        for label, name in (("first", "planned"), ("again", "planned"), ("student", "read_by_student")):
            results[label] = measured(name, folder, n)
            say(f"{label}: {results[label]}")
    finish("many prompts", results)


if __name__ == "__main__":
    main()
