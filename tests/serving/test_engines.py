"""Students whose networks are computed by torch's compiler or by onnxruntime."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from msd_ray.conditions import Embedded
from msd_ray.ensemble import Part, read_description
from msd_ray.errors import MsdRayError, UserError
from msd_ray.serving.client import Client
from msd_ray.serving.service import batching, engine
from msd_ray.serving.service.batching import Batching, batching_for
from msd_ray.serving.service.config import StudentConfig, parse_config
from msd_ray.serving.service.request import Limits
from msd_ray.storage import Store

from ..ensemble.test_adapters import ensemble as of_adapters
from .asking import all_at_once, one_at_a_time, pairs_of
from .conftest import LocalStudents, running
from .ensembles import POINTS, saved
from .prompts import saved_prompts
from .test_batching import largest_difference
from .test_config import run
from .whole import Load, eventually, replicas, started

IN_ONNXRUNTIME = StudentConfig(engine="onnxruntime", batch=8)
STUDENT = "ServeReplica:msd-ray-part-"


def first_part(uri: str) -> Part:
    return Part.load(read_description(Store(uri)), 0)


def assert_within_bound(part: Part, found: Batching, condition: Any, right: torch.Tensor) -> None:
    """right: of seeds 100, 101 and so on, as `generate` makes them."""
    assert found.mode == "batched" and found.bound < 1e-3
    for begin in range(0, len(right), found.most):
        some = right[begin : begin + found.most]
        ids = [(condition, 100 + begin + i) for i in range(len(some))]
        made = part.evaluate(ids, range(len(some)), found.size_for(len(some)))
        assert (made - some).abs().max() <= found.bound


@pytest.mark.slow
def test_onnxruntimes_images_stay_within_their_bound(tiny: str) -> None:
    pairs = pairs_of(30)
    with running([tiny], Limits(), LocalStudents(IN_ONNXRUNTIME)) as it:
        with Client(it.address) as client:
            made = client.generate(range(10), range(10))  # of all students, which so are loaded
        together = asyncio.run(all_at_once(it.address, pairs))
    assert {image.batching for image in made} == {"batched"} and all(0 < image.bound < 1e-3 for image in made)
    assert 0 < largest_difference(together, one_at_a_time(tiny, pairs)) <= max(image.bound for image in made)


@pytest.mark.parametrize(
    "how",
    [{}, {"steps": 2}, {"timesteps": 2}, {"steps": 4, "timesteps": 2}],
    ids=["one step", "two steps", "noise levels", "phases"],
)
def test_onnxruntime_takes_students_of_every_kind(how: dict[str, Any], tmp_path: Path) -> None:
    part = first_part(saved(tmp_path, 1, spec=POINTS, **how))
    right = part.generate([(3, seed) for seed in range(100, 113)])
    assert_within_bound(part, batching_for(part, 3, IN_ONNXRUNTIME), 3, right)


def test_onnxruntime_takes_prompts(tmp_path: Path) -> None:
    known = read_description(Store(saved_prompts(tmp_path, 1)))
    part = Part.load(known, 0)
    vectors = torch.rand(known.conditions.embedded_shape, generator=torch.Generator().manual_seed(0))
    condition = Embedded("a picture", vectors.numpy())
    right = part.generate([(condition, seed) for seed in range(100, 113)])
    assert_within_bound(part, batching_for(part, condition, IN_ONNXRUNTIME), condition, right)


def test_onnxruntime_takes_adapters() -> None:
    part = of_adapters().part(0)
    right = part.generate([(3, seed) for seed in range(100, 113)])
    assert_within_bound(part, batching_for(part, 3, IN_ONNXRUNTIME), 3, right)


@pytest.mark.slow
def test_all_is_compiled_before_the_first_request_and_once_for_all_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    known, config = read_description(Store(saved(tmp_path, 2, spec=POINTS))), StudentConfig(engine="compile", batch=4)
    first, second = (Part.load(known, number) for number in range(2))
    condition, other = (int(known.partition.router.ids_of(number)[0]) for number in range(2))
    right = first.generate([(condition, seed) for seed in range(100, 107)])
    found = batching_for(first, condition, config)
    assert set(found.sizes) <= {1, 2, 4}
    before = compiled()
    assert before[0] >= 3  # at least the sizes
    assert_within_bound(first, found, condition, right)
    assert compiled() == before
    batching_for(second, other, config)
    traced, kernels = compiled()
    assert kernels - before[1] < traced - before[0]  # one may be made anew: which sizes are tried depends on the time


def compiled() -> tuple[int, int]:
    """How often this process traced a network, and how often it made kernels that the compiler's cache had not."""
    return counters["stats"]["unique_graphs"], counters["inductor"]["fxgraph_cache_miss"]


@pytest.mark.nightly
def test_compiled_networks_compute_in_bf16_too(tmp_path: Path) -> None:
    part = first_part(saved(tmp_path, 1, spec=POINTS))
    right = part.generate([(3, seed) for seed in range(2)])
    found = batching_for(part, 3, StudentConfig(engine="compile", precision="bf16", batch=2))
    assert found.mode == "batched" and 1e-4 < found.bound < 1
    assert (part.evaluate([(3, 0), (3, 1)], range(2), 2) - right).abs().max() <= found.bound


@pytest.mark.parametrize(
    ("students", "why"),
    [
        ({"engine": "onnxruntime", "batching": "exact"}, "engine onnxruntime changes the last bits: take batching"),
        ({"engine": "compile", "batching": "exact"}, "engine compile changes the last bits: take batching"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "onnxruntime computes in fp32: take precision: fp32"),
        ({"engine": "onnx"}, "engine"),
    ],
)
def test_what_an_engine_cannot_do_is_said(students: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        parse_config({"students": students})
    assert "\n" not in str(told.value)


def test_a_missing_onnxruntime_is_said_before_anything_starts(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # type: ignore[arg-type]
    code, out, err = run(capsys, monkeypatch, "serve", tiny, "students.engine=onnxruntime")
    assert (code, out) == (2, "")
    assert err == "error: this needs onnxruntime: pip install 'msd-ray[onnx]'\n"


def test_an_onnxruntime_without_the_students_device_is_said() -> None:
    with pytest.raises(UserError, match="does not compute on cuda; take students"):
        engine.require_onnxruntime(torch.device("cuda"))


def branching(module: Any, inputs: Any) -> Any:
    """What a network does depends on the numbers."""
    return (inputs[0] + 1, *inputs[1:]) if inputs[0].sum() > 0 else None


@pytest.mark.parametrize(
    ("name", "why"), [("onnxruntime", "onnxruntime does not take"), ("compile", "torch cannot compile")]
)
def test_a_network_that_an_engine_does_not_take_is_said_in_one_line(name: Any, why: str, tmp_path: Path) -> None:
    part = first_part(saved(tmp_path, 1, spec=POINTS))
    part._students[0].network.register_forward_pre_hook(branching)  # type: ignore[attr-defined]
    with pytest.raises(MsdRayError, match=f"^{why} this student: .*; take students.engine: torch$") as told:
        batching_for(part, 3, StudentConfig(engine=name, batch=2))
    assert "\n" not in str(told.value) and len(str(told.value)) < 450


def test_an_engine_that_makes_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = first_part(saved(tmp_path, 1, spec=POINTS))
    monkeypatch.setattr(batching, "use_engine", lambda part, _: part.run_networks(lambda: lambda f, *x: 1.1 * f(*x)))
    with pytest.raises(MsdRayError, match="makes other images of this student than torch"):
        batching_for(part, 3, IN_ONNXRUNTIME)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_replicas_that_are_killed_come_back_with_their_engine(cluster: None, tmp_path: Path) -> None:
    import ray

    uri, where = saved(tmp_path / "ensemble", 1, spec=POINTS), ray.get_runtime_context().gcs_address
    with started(tmp_path, where, uri, "students.engine=onnxruntime") as site, Load(site.where) as load:
        before = {process.pid for process in replicas(STUDENT)}
        load.more(30)
        os.kill(min(before), signal.SIGKILL)
        assert eventually(lambda: {process.pid for process in replicas(STUDENT)} - before)
        load.more(30)
    assert load.errors == []
    assert {image.batching for image in load.made} == {"batched"}
    right = one_at_a_time(uri, [(image.class_id, image.seed) for image in load.made])
    largest = largest_difference([image.data for image in load.made], right)
    assert largest <= min(image.bound for image in load.made) < 1e-3
