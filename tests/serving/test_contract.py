"""The generated code is what protoc makes of services/ensemble/ensemble.proto."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from msd_ray.serving.generated import ensemble_pb2 as pb

ROOT = Path(__file__).parents[2]
GENERATED = "msd_ray/serving/generated"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{GENERATED}=services/ensemble", *outputs]
    subprocess.run([*command, f"{GENERATED}/ensemble.proto"], cwd=ROOT, check=True)
    return out / GENERATED


@pytest.mark.parametrize("name", ["ensemble_pb2.py", "ensemble_pb2.pyi", "ensemble_pb2_grpc.py"])
def test_generated_code_is_that_of_the_contract(regenerated: Path, name: str) -> None:
    assert (ROOT / GENERATED / name).read_text() == (regenerated / name).read_text(), "run `make proto`"


def test_numbers_of_released_fields_stay() -> None:
    """What clients in the field rely on. Add to it when a field is added; never change a line."""
    numbers = {f"{m.name}.{f.name}": f.number for m in messages() for f in m.fields}
    assert {name: numbers[name] for name in RELEASED} == RELEASED


def messages() -> list[Descriptor]:
    return list(pb.DESCRIPTOR.message_types_by_name.values())


RELEASED = {
    "Condition.class_id": 1,
    "Condition.prompt": 2,
    "GenerateRequest.conditions": 1,
    "GenerateRequest.seeds": 2,
    "GenerateRequest.format": 3,
    "GenerateRequest.version": 4,
    "Image.index": 1,
    "Image.data": 2,
    "Image.format": 3,
    "Image.shape": 4,
    "Image.class_id": 5,
    "Image.seed": 6,
    "Image.students": 7,
    "Image.version": 8,
    "Image.student_version": 9,
    "Image.batching": 15,
    "Image.bound": 16,
    "GenerateResponse.images": 1,
}
