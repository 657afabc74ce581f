"""What ensembles whose students differ in size cost."""

from dataclasses import replace
from pathlib import Path

import torch

from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.ensemble import ONE_STEP, Ensemble, Member, save_ensemble
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.runs.plan import Plan
from msd_ray.runs.run_context import RunContext
from msd_ray.storage import Store
from msd_ray.sweep.trial_evaluation import _active_parameters, _own_flops, training_flops

from .cases import RECIPE


def plan(*overrides: str) -> Plan:
    return RunContext.of(RECIPE, ["partition.kind=sequential", *overrides], None).plan


def flops(*overrides: str) -> list[dict[str, float]]:
    """Of each student."""
    made = plan(*overrides)
    found = training_flops(made)
    assert found
    return [found[student.spec.denoiser] for student in made.ensembles[0].students]


def test_each_student_is_counted_by_its_own_size() -> None:
    narrow, wide = flops("students.0.channel_factor=0.5")
    assert set(narrow) == set(wide) == {"dm", "adm"}
    assert all(narrow[stage] < wide[stage] for stage in narrow)
    assert flops("student.channel_factor=0.5") == [narrow, narrow]
    assert flops() == [wide, wide]


def test_a_branch_is_not_counted_for_what_its_trunk_did() -> None:
    spec = plan("stages.dm.shared=true").ensembles[0].students[0].spec
    of_stage = {"dm": 3.0, "adm": 5.0}
    own = spec.stages["adm"].images
    assert _own_flops(spec, of_stage, spec.images) == own * 5.0
    assert _own_flops(spec, of_stage, spec.images - 16) == (own - 16) * 5.0
    assert _own_flops(replace(spec, begins=0), of_stage, spec.images) == spec.stages["dm"].images * 3.0 + own * 5.0


def test_active_parameters_are_the_mean_over_the_classes(tmp_path: Path) -> None:
    partition, members = fit(PartitionConfig(2, "sequential"), Classes.numbered(3)), []
    for i, width in enumerate((8, 16)):
        spec = DenoiserSpec(MLPConfig(width=width, blocks=2), (2,), 3)
        weights = {name: torch.zeros_like(value) for name, value in spec.build().state_dict().items()}
        members.append(Member(i, spec, 80.0, 64, weights))
    save_ensemble(Store(str(tmp_path)), {"name": "mixed"}, partition, ["a", "b", "c"], members, ONE_STEP)
    sizes = [member.spec.parameters() for member in members for _ in partition.router.ids_of(member.index)]
    assert len(sizes) == 3 and sizes[0] != sizes[2]
    assert _active_parameters(Ensemble.load(str(tmp_path))) == round(sum(sizes) / 3)
