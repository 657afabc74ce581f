"""The frozen weights that the adapters of an ensemble's students change."""

from torch import Tensor

from msd_ray.errors import TrainingError, UserError
from msd_ray.networks.weights import StoredWeights
from msd_ray.storage import Store
from msd_ray.teachers import TeacherSource
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.student_spec import StudentSpec


def base_of(spec: StudentSpec, trunk: Store | None, teacher: TeacherSource) -> dict[str, Tensor] | StoredWeights:
    """The averaged weights of the trunk that the student branches off from, or without one the teacher's.

    trunk: its checkpoints. Raises TrainingError where the trunk's last checkpoint is not there, UserError where the
    teacher has no weights.
    """
    if trunk:
        newest = Checkpoints(trunk, 1).newest(spec.begins)
        if newest is None:
            raise TrainingError(f"{trunk.uri} has no checkpoint of the trunk, which lies under the students' adapters")
        return newest.tensors("ema")
    weights = teacher.weights()
    if weights is None:
        raise UserError("student.adapter: this teacher gives no weights for adapters to change; leave it out")
    return weights
