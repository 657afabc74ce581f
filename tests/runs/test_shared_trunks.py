"""Trunks that several runs share: what makes two trunks the same, and that one goes on where another ended."""

from pathlib import Path

import pytest
import torch

from msd_ray.runs.plan import Plan, StudentPlan
from msd_ray.runs.run_directory import folder, images_of
from msd_ray.runs.shared_trunks import adopt, branch_points, line_of, publish
from msd_ray.storage import Store
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.student_trainer import StudentTrainer

from ..training.cases import Spy
from .test_shared_stages import SHARED, TREE, plan, stage


def trunk_of(made: Plan) -> StudentPlan:
    return made.ensembles[0].trunks[0]


def line(stages: str = SHARED, *overrides: str) -> str:
    made = plan(stages, *overrides)
    return line_of(made, trunk_of(made))


@pytest.mark.parametrize(
    "other",
    [
        [SHARED, "partition.k=4"],
        [SHARED, "partition.kind=random"],
        [SHARED, "name=other", "training.share_images=true"],
        [f"trunk: {stage(160, ', shared: true')}, own: {stage(160)}"],
        [f"trunk: {stage(320, ', shared: true')}, own: {stage(80, ', generator_lr: 0.5')}"],
        [TREE.replace("all", "trunk"), "partition.k=4"],
    ],
)
def test_how_many_branch_off_and_where_makes_no_difference(other: list[str]) -> None:
    assert line(*other) == line()


@pytest.mark.parametrize(
    "other",
    [
        [SHARED, "seed=1"],
        [SHARED, "student.channel_factor=0.5"],
        [SHARED, "data.samples=128"],
        [SHARED, "noise.sigma_max=10"],
        [SHARED, "training.ema.halflife=1"],
        [f"trunk: {stage(320, ', shared: true, generator_lr: 0.5')}, own: {stage(160)}"],
        [f"before: {stage(160, ', shared: true')}, trunk: {stage(320, ', shared: true')}, own: {stage(160)}"],
    ],
)
def test_whatever_changes_its_weights_does(other: list[str]) -> None:
    assert line(*other) != line()


def test_trunks_of_different_groups_and_of_different_trunks_differ() -> None:
    tree, longer = plan(TREE, "partition.k=4"), plan(TREE.replace("320", "640"), "partition.k=4")
    lines = [line_of(made, trunk) for made in (tree, longer) for trunk in made.ensembles[0].trunks]
    assert lines[0] == lines[3] and len(set(lines)) == 5
    points = branch_points([tree, longer])
    assert [points[name] for name in lines[:3]] == [[320, 640], [480], [480]]


def trained(made: Plan, run: Store, *, to: int) -> None:
    """Trains the trunk of a run, from its newest checkpoint."""
    trunk = trunk_of(made)
    kept = Checkpoints(folder(run, trunk.directory), keep=1)
    owned = made.ensembles[0].partition.owned_by_parts(trunk.parts, made.conditions)
    trainer = StudentTrainer(trunk.spec, owned, Spy())
    if state := kept.latest():
        trainer.load_state_dict(state)
    trainer.advance(to - trainer.nimg)
    kept.save(trainer.state_dict())


def test_a_run_goes_on_where_another_ended_bit_for_bit(tmp_path: Path) -> None:
    short, long = plan(SHARED), plan(SHARED.replace("320", "640"), "partition.k=4")
    one, two, alone, shared = (Store(str(tmp_path / name)) for name in ("one", "two", "alone", "shared"))
    trained(short, one, to=320)
    publish(one, trunk_of(short), shared)

    adopt(two, trunk_of(long), shared)
    assert images_of(two, trunk_of(long)) == 320
    trained(long, two, to=640)
    publish(two, trunk_of(long), shared)
    assert sorted(name for name in shared.names() if "ckpt" in name) == ["ckpt-000000000320", "ckpt-000000000640"]

    trained(long, alone, to=640)
    ours, theirs = (Checkpoints(folder(run, "trunks/0000"), 1).latest() for run in (two, alone))
    assert ours and theirs and ours.tensors.keys() == theirs.tensors.keys()
    for name, tensors in ours.tensors.items():
        assert all(torch.equal(tensor, theirs.tensors[name][key]) for key, tensor in tensors.items())


def test_nothing_is_taken_that_lies_beyond_the_branch_point_or_behind_the_run(tmp_path: Path) -> None:
    short, long = plan(SHARED), plan(SHARED.replace("320", "640"))
    one, two, shared = (Store(str(tmp_path / name)) for name in ("one", "two", "shared"))
    trained(long, one, to=640)
    publish(one, trunk_of(long), shared)
    adopt(two, trunk_of(short), shared)
    assert images_of(two, trunk_of(short)) == 0
    adopt(one, trunk_of(long), shared)
    assert images_of(one, trunk_of(long)) == 640
