"""A student whose discriminator judges a frozen pretrained network: what a kill costs, and what checkpoints hold."""

import copy
from dataclasses import replace

import torch

from msd_ray.data import in_memory
from msd_ray.networks import PRETRAINED, DenoiserSpec, UNetConfig
from msd_ray.training.config import StageConfig
from msd_ray.training.state import tensors_of
from msd_ray.training.student_trainer import StudentTrainer

from .cases import CONDITIONS, SPEC, assert_same, trainer

NETWORK = UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=())
OPTIONS = {"features": "efficientnet-lite0", "side": 64, "r1_every": 1}
STAGE = StageConfig("gdd", images=4, batch=2, generator_lr=1e-3, fake_lr=1e-3, warmup=0, options=OPTIONS)
IMAGES = replace(SPEC, denoiser=DenoiserSpec(NETWORK, (1, 8, 8), 4), stages={"gdd": STAGE})
REAL = in_memory(torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(CONDITIONS * 3))


def begun() -> StudentTrainer:
    return trainer(IMAGES, real=REAL)


def test_a_killed_student_goes_on_bit_for_bit_with_the_same_projections() -> None:
    whole, first = begun(), begun()
    whole.advance(4)
    first.advance(2)
    kept = copy.deepcopy(first.state_dict())
    torch.manual_seed(99)
    second = begun()
    second.load_state_dict(kept)
    second.advance(2)
    assert_same(whole, second)
    heads = [t.state_dict().tensors["head.gdd"] for t in (first, whole, second)]
    mixes = [name for name in heads[0] if name.startswith("mixed.")]
    assert mixes and all(torch.equal(heads[0][name], head[name]) for name in mixes for head in heads)
    trained = "heads.0.last.conv.weight"
    assert not torch.equal(kept.tensors["head.gdd"][trained], heads[1][trained])


def test_students_have_projections_of_their_own() -> None:
    a, b = begun(), trainer(replace(IMAGES, index=1), real=REAL)
    for student in (a, b):
        student.advance(2)
    one, other = (t.state_dict().tensors["head.gdd"]["mixed.across_scales.0.weight"] for t in (a, b))
    assert not torch.equal(one, other)


def test_no_checkpoint_holds_the_frozen_network_but_its_memory_counts() -> None:
    student = begun()
    empty = student.bytes()
    student.advance(2)
    state, frozen = student.state_dict(), PRETRAINED["efficientnet-lite0"]()
    held = {id_of(t) for part in state.tensors.values() for t in part.values()}
    assert student.nets.pretrained is not None
    inside = tensors_of(student.nets.pretrained)
    assert inside and not held & {id_of(t) for t in inside.values()}
    assert set(state.tensors) == {
        "generator", "ema", "fake", "generator_optimizer", "fake_optimizer", "head.gdd"
    }  # fmt: skip
    assert all(torch.equal(inside[name], value) for name, value in tensors_of(frozen).items())  # nothing trained it
    network = sum(t.nbytes for t in inside.values())
    assert student.bytes() - empty > network + sum(t.nbytes for t in state.tensors["head.gdd"].values())


def id_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
