"""How much room a run takes, and places that cannot be written to."""

from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.objectives import Pairs
from msd_ray.runs.disk_needs import FLOAT, checkpoint_weights, disk_needed
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store, free_bytes, refuse_unwritable, used_bytes
from msd_ray.teachers import LocalTeacher
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.student_spec import Extras
from msd_ray.training.student_trainer import StudentTrainer

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
RECIPES = {
    TINY: ["partition.kind=sequential", "stages.dm.images=16", "stages.adm.images=16"],
    "digits-gdd": ["stages.gdd.images=32"],
    "digits-consistency": [],
}


@pytest.mark.parametrize("name", list(RECIPES), ids=lambda name: Path(name).stem)
def test_a_checkpoint_has_the_size_that_was_foreseen(name: str, tmp_path: Path) -> None:
    context = RunContext.of(name, RECIPES[name], str(tmp_path / "run"))
    plan = context.plan
    spec, teacher = plan.students[0].spec, plan.teacher.build().eval().requires_grad_(False)
    owned = plan.ensembles[0].partition.owned_by(0, plan.conditions)
    real = context.data.train.only(owned.ids)
    pairs = Pairs(real.all().x, real.all().x, real.classes)
    trainer = StudentTrainer(
        spec, owned, LocalTeacher(teacher), None, real, "cpu", Extras(encoder=teacher, pairs=pairs)
    )
    trainer.advance(min(spec.images, 64))
    Checkpoints(Store(str(tmp_path / "checkpoints")), keep=1).save(trainer.state_dict())
    there = used_bytes(Store(str(tmp_path / "checkpoints")))
    counts = sum(t.numel() for part in trainer.state_dict().tensors.values() for t in part.values())
    assert counts == pytest.approx(checkpoint_weights(spec), rel=0.02)
    assert FLOAT * checkpoint_weights(spec) < there * 1.02
    assert disk_needed(plan) > len(plan.students) * (plan.recipe.training.keep + 1) * FLOAT * counts * 0.98


def test_a_place_is_left_as_it_was(tmp_path: Path) -> None:
    refuse_unwritable(Store(str(tmp_path / "a" / "b")), "never mind")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"there is a file where a directory is needed.*: look elsewhere"):
        refuse_unwritable(Store(str(tmp_path / "file" / "b")), "look elsewhere")
    assert used_bytes(Store(str(tmp_path))) == 1
    assert (free_bytes(Store(str(tmp_path / "not" / "there"))) or 0) > 0
