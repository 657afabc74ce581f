import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from serving_costs import routing_us
from serving_division import divided
from serving_ensembles import untrained
from serving_load import Cell, measure

from msd_ray.ensemble import SampleId
from msd_ray.serving.client.messages import request_of
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.service import StudentImage

ROOT = Path(__file__).parents[2]


def test_what_a_user_can_mend_is_one_line() -> None:
    line = [sys.executable, "benchmarks/serving.py", "--quick", "--run", "nowhere"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert "nowhere is not a run directory" in done.stderr


def test_each_caller_asks_once_at_least_and_all_stop_at_the_number_of_requests() -> None:
    asked: list[tuple[list[int], list[int]]] = []

    async def ask(classes: list[int], seeds: list[int]) -> list[bytes]:
        asked.append((classes, seeds))
        await asyncio.sleep(0)
        return []

    found = asyncio.run(measure(ask, Cell(images=3, callers=4, seconds=60, requests=40), classes=10))
    assert 40 <= found["requests"] == len(asked) < 44
    assert all(len(classes) == len(seeds) == 3 and set(classes) <= set(range(10)) for classes, seeds in asked)
    assert len({seed for _, seeds in asked for seed in seeds}) == 3 * len(asked)
    asked.clear()
    asyncio.run(measure(ask, Cell(images=1, callers=4, seconds=0, requests=40), classes=10))
    assert len(asked) == 4


def test_a_request_is_divided_by_owner_and_put_together_in_order() -> None:
    async def make(part: int, pairs: list[SampleId]) -> list[StudentImage]:
        return [StudentImage(f"{part} {class_id} {seed}".encode(), 0, 0) for class_id, seed in pairs]

    answer = asyncio.run(divided(request_of([2, 0, 1, 2], [5, 6, 7, 8], "png", ""), [0, 1, 0], make))
    assert [image.data for image in answer.images] == [b"0 2 5", b"0 0 6", b"1 1 7", b"0 2 8"]
    assert [image.index for image in answer.images] == [0, 1, 2, 3]


@pytest.mark.slow
def test_what_is_served_is_a_recipes_students_and_its_teacher(tmp_path: Path) -> None:
    served = untrained("digits", ["partition.k=2"], str(tmp_path))
    students, teacher = describe(served.students), describe(served.teacher)
    assert len(set(students.parts)) == 2  # equal ones would be deployed once
    assert (students.evaluations, teacher.evaluations) == (1, 35)
    assert len(teacher.students) == 1
    assert routing_us(students, 4, repeats=2, loops=2)["n"] == 2
