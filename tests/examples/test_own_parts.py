"""Parts of a user's own, with no edit elsewhere: they train through Ray, generate, are judged and served."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from msd_ray.codecs import to_bytes
from msd_ray.ensemble import Ensemble
from msd_ray.errors import UserError
from msd_ray.runs.generate import generate_file
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_results import evaluate_once, evaluate_uri
from msd_ray.serving.client import Client, Connection
from msd_ray.serving.service.config import load_config

from ..serving.whole import free_ports

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RECIPE = str(Path(__file__).parents[2] / "examples" / "own_parts.yaml")
TINY = [
    "data.options={classes: 4}",
    "teacher.options={classes: 4}",
    "network.width=8",
    "stages={dm: {objective: dm, images: 320, batch: 16, fake_steps: 1}}",
    "training.checkpoint_every=160",
    "teacher.steps=4",
    "evaluation={samples: 40, curve_samples: 20, kid_subsets: 2, preview_every: 160}",
]


class Silent:
    def note(self, line: str) -> None: ...

    def watch(self, statuses: object) -> None: ...


@pytest.fixture(scope="module")
def run(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run and its table."""
    from msd_ray.cluster.evaluation import measuring
    from msd_ray.cluster.train import train

    context, rows = RunContext.of(RECIPE, TINY, str(tmp_path_factory.mktemp("own"))), list[Any]()

    def measure(idle: Any) -> None:
        with measuring(None, Silent(), idle) as complete:
            rows.extend(evaluate_once(context, complete, lambda _: None))

    train(context.plan, context.store, context.cache, None, Silent(), then=measure)
    return context, {row.name: row for row in rows}


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "own_parts")


def test_they_train_through_ray_and_are_judged_by_their_pictures(run: Any) -> None:
    context, rows = run
    assert list(rows)[:3] == ["real, held out", "teacher", "ensemble"]
    assert rows["ensemble"].scores.n == rows["teacher"].scores.n == 40
    assert {"student 1 (class one)", "student 2 (classes two, three)"} < set(rows)  # parts of different sizes
    assert rows["teacher"].scores.fid < rows["ensemble"].scores.fid  # it knows the training samples by heart
    assert context.features.name == "digits"
    assert context.store.exists("data.json") and context.store.exists("teacher.json")
    pictures = context.store.child("students").child("0000").child("previews")
    assert Image.open(io.BytesIO(pictures.read("000000000160.png"))).size == (8 * (8 + 1) * 6 - 6, 5 * (8 + 1) * 6 - 6)
    assert context.store.exists("report.html") and context.store.exists("samples.png")


def test_they_generate_where_their_module_is_allowed(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = run[0].store.uri
    with pytest.raises(UserError, match=r"set MSD_RAY_OWN_CODE=own_parts$"):
        generate_file(uri, "", "0-1", tmp_path / "made.png")
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "own_parts")
    assert generate_file(uri, "", "0-1", tmp_path / "made.png")["shape"] == [4, 2, 4, 4, 4]
    assert (tmp_path / "made.png").exists()
    for name, condition in ("word", "three"), ("number", "3"):
        generate_file(uri, condition, "0-1", tmp_path / f"{name}.npy")
    assert (tmp_path / "word.npy").read_bytes() == (tmp_path / "number.npy").read_bytes()
    with pytest.raises(UserError, match="there is no digit 'nine', only zero, one, two, three"):
        generate_file(uri, "nine", "0", tmp_path / "none.npy")


@pytest.mark.usefixtures("trusted")
def test_students_see_what_their_conditions_stand_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in training and generating alone: the samples differ where the vectors do."""
    ensemble = Ensemble.load(run[0].store.child("ensemble").uri)
    before = ensemble.generate([3], [7])
    monkeypatch.setattr(type(ensemble.conditions), "embed", lambda self, ids: F.one_hot(ids, self.n).float())
    assert not torch.equal(ensemble.generate([3], [7]), before)


@pytest.mark.usefixtures("trusted")
def test_the_run_is_judged_again_from_its_directory_alone(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from msd_ray.cluster.evaluation import measuring

    context, rows = run
    with measuring(None, Silent()) as complete:
        again = {row.name: row for row in evaluate_uri(context.store.uri, ["evaluation.samples=44"], complete, print)}
    assert list(again) == list(rows) and again["ensemble"].scores.n == 44
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "")
    with pytest.raises(UserError, match="which is code that may be somebody else's"):
        evaluate_uri(context.store.uri, [], lambda _: None, print)


@pytest.mark.usefixtures("trusted")
def test_they_are_served_as_pictures(run: Any) -> None:
    import ray

    from msd_ray.serving.serve_apps.serve import serving

    uri, (port, http_port) = run[0].store.child("ensemble").uri, free_ports()
    config = load_config(None, [f"gateway.port={port}", f"gateway.http_port={http_port}", "gateway.access_log=false"])
    address, where = ray.get_runtime_context().gcs_address, Connection(f"127.0.0.1:{port}")
    with serving(uri, config, address, lambda _: None), Client(where) as client:
        as_picture, as_sample = (client.generate(["three"], [7], format)[0] for format in ("png", "float32"))
        (version,) = client.ensemble().versions
        owned = [list(student.classes) for student in client.students().students]
    assert (list(version.labels), owned) == (["zero", "one", "two", "three"], [[0], [1], [2, 3]])
    made = Ensemble.load(uri).generate([3], [7])
    assert as_sample.data == made.numpy().tobytes()
    seen = np.asarray(Image.open(io.BytesIO(as_picture.data)))
    assert np.array_equal(seen, to_bytes(F.pixel_shuffle(made, 2))[0, 0].numpy())
