"""Stages that trials share. A student's weights after its first stages follow from these stages, its partition, its
size and its seed, bit for bit. So the first trial keeps its checkpoints, and the others begin with them."""

from msd_ray.errors import CorruptError
from msd_ray.runs.plan import Plan, StudentPlan
from msd_ray.runs.run_directory import folder, weights_part
from msd_ray.runs.shared_trunks import copy_checkpoint
from msd_ray.storage import Store, digest, read_manifest
from msd_ray.training.checkpoints import checkpoint_name


def shared_folder(store: Store, plan: Plan, images: int) -> Store:
    """The folder of shared checkpoints of students that equal the plan's up to so many images. Its name is the hash of
    everything that they depend on until then."""
    determinants = weights_part(plan.recipe)
    left, stages = images, {}
    for name, stage in determinants["stages"].items():
        if left > 0:
            stages[name] = stage
        left -= stage["images"]
    determinants = {**determinants, "name": "", "stages": list(stages.items())}
    return store.child(digest([determinants, plan.ensembles[0].partition.to_json(), images]))


def publish(run: Store, plan: Plan, images: int, shared: Store) -> None:
    """Copies the checkpoints that the run's students have at `images` into the shared folder, unless another trial
    did."""
    for student in plan.ensembles[0].students:
        if not _whole(_kept_student(shared, student).child(checkpoint_name(images))):
            copy_checkpoint(folder(run, student.directory), _kept_student(shared, student), images)


def adopt(run: Store, plan: Plan, images: int, shared: Store) -> bool:
    """Gives the run's students the shared checkpoints at `images`; returns whether there is a whole one for each."""
    try:
        for student in plan.ensembles[0].students:
            copy_checkpoint(_kept_student(shared, student), folder(run, student.directory), images)
    except (FileNotFoundError, CorruptError):
        return False
    return True


def _kept_student(shared: Store, student: StudentPlan) -> Store:
    return shared.child(f"{student.spec.index:04d}")


def _whole(store: Store) -> bool:
    try:
        read_manifest(store)
    except (FileNotFoundError, CorruptError):
        return False
    return True
