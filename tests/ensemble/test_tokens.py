"""Students of tokens as an ensemble: what they make, keep and give to other programs. Their weights are random."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from msd_ray.codecs import CodecConfig
from msd_ray.codecs.levels import are_tokens
from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.diffusion import Masked
from msd_ray.ensemble import Ensemble, Member, save_ensemble
from msd_ray.errors import UserError
from msd_ray.export.export import export
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.runs.generate import generate_file
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.student_worker import encoded, load_part
from msd_ray.storage import Store

NETWORK = UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0)
SPEC = DenoiserSpec(NETWORK, (5, 8, 8), 10, preconditioning=Masked())


@pytest.fixture
def saved(tmp_path: Path) -> str:
    torch.manual_seed(0)
    partition = fit(PartitionConfig(2), Classes.numbered(10))
    weights = [{name: 0.2 * torch.randn_like(w) for name, w in SPEC.build().state_dict().items()} for _ in range(2)]
    members = [Member(i, SPEC, 0.6, 640, weights[i]) for i in range(2)]
    where, codec = Store(str(tmp_path / "ensemble")), CodecConfig("levels")
    save_ensemble(where, {"name": "tokens"}, partition, tuple("0123456789"), members, codec=codec)
    return str(tmp_path / "ensemble")


def test_a_sample_is_tokens_that_follow_from_condition_and_seed(saved: str) -> None:
    ensemble = Ensemble.load(saved)
    assert [member.spec for member in ensemble.members] == [SPEC, SPEC] and ensemble.nfe == 1
    x = ensemble.generate([0, 3, 9, 9], [1, 1, 1, 2])
    assert are_tokens(x) and all(len(x[i].argmax(0).unique()) > 1 for i in range(4))
    for i, (condition, seed) in enumerate([(0, 1), (3, 1), (9, 1), (9, 2)]):
        assert torch.equal(Ensemble.load(saved).generate([condition], [seed])[0], x[i])
    assert not torch.equal(x[2], x[3])


def test_commands_and_the_service_show_pictures(saved: str, tmp_path: Path) -> None:
    facts = generate_file(saved, "0-9", "0-1", tmp_path / "x.png")
    assert facts["shape"] == [10, 2, 5, 8, 8] and (tmp_path / "x.png").stat().st_size > 0
    facts_of = describe(saved)
    part, _ = load_part(saved, 0, facts_of.parts[0], "cpu")
    assert facts_of.has_pictures
    picture = Image.open(io.BytesIO(encoded(part.generate([(0, 1)])[0], "png", part.codec)))
    assert set(np.unique(np.asarray(picture))) <= {0, 64, 128, 191, 255}


def test_no_sampler_or_steps_can_be_chosen(saved: str) -> None:
    for sampler, steps in ((None, 4), ("unmask", None), ("heun", 4)):
        with pytest.raises(UserError, match="make a sample in a single step"):
            Ensemble.load(saved).generate([0], [0], sampler=sampler, steps=steps)


def test_an_onnx_model_is_refused(saved: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="students of tokens are not exported as ONNX"):
        export(saved, "onnx", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
