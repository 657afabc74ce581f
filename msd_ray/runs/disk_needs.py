"""Checks before work begins that the places for a run's results can be written to and have room."""

from msd_ray.errors import UserError
from msd_ray.formatting import size
from msd_ray.networks import count_parameters
from msd_ray.networks.denoiser_spec import stored_parameters
from msd_ray.networks.shapes import shapes_only
from msd_ray.objectives import Nets
from msd_ray.runs.plan import Plan
from msd_ray.storage import Store, free_bytes, refuse_unwritable, used_bytes
from msd_ray.training.optimizer_state import BLOCK
from msd_ray.training.student_spec import StudentSpec

FLOAT = 4
"""Bytes of a weight on disk."""


def check_cache(cache: Store) -> None:
    """Raises UserError if the cache cannot be written to."""
    refuse_unwritable(cache, "set MSD_RAY_CACHE to a folder that can be written")


def check_run_dir(store: Store) -> None:
    """Raises UserError if the directory of a run or sweep cannot be written to."""
    refuse_unwritable(store, "give another --run-dir")


def refuse_full(plan: Plan, store: Store) -> None:
    """Raises UserError if the disk has less room than the run needs beyond what it already has there."""
    needed, free = disk_needed(plan), free_bytes(store)
    if free is not None and needed - used_bytes(store) > free:
        raise UserError(
            f"{store.uri}: the run needs about {size(needed)} on disk, {size(free)} are free; free some space, lower "
            f"training.keep, or give another --run-dir"
        )


def room_line(plan: Plan, store: Store) -> str:
    """A line with the room that a run needs, and the room that there is."""
    keep, free = plan.recipe.training.keep, free_bytes(store)
    what = f"about {size(disk_needed(plan))} for {keep} checkpoints of each student, one under way, and the ensemble"
    return what if free is None else f"{what}; {size(free)} are free"


def disk_needed(plan: Plan) -> int:
    """Bytes of a run directory when it is largest, but for its journals and pictures: the teacher and either its own
    training or the students' checkpoints and their ensembles."""
    keep = plan.recipe.training.keep + 1  # one is written before another goes
    teacher = 0 if plan.source else plan.teacher.parameters()
    sizes = [(student.spec.denoiser, student.spec.adapter) for student in plan.students]
    of_checkpoint = {size: checkpoint_weights(student.spec) for size, student in zip(sizes, plan.students, strict=True)}
    students = stored_parameters(sizes) + sum(keep * of_checkpoint[size] for size in sizes)
    return FLOAT * (teacher + max(2 * 4 * teacher, students))


def checkpoint_weights(spec: StudentSpec) -> int:
    """Numbers of 4 bytes in the largest checkpoint of a student: generator, its average, fake score, discriminators, a
    copy of the generator where a method has one, and two averages of each weight that an optimizer moves."""
    of_average = 1 / FLOAT + 1 / BLOCK if spec.training.optimizer_state == "int8" else 1
    with shapes_only():
        nets = Nets(spec.denoiser.build(), spec.denoiser.build(), encoder=spec.denoiser.build())
        student, fake = (spec.denoiser.own_parameters(a) for a in (spec.adapter, spec.adapter_of_fake))
        heads, most = dict[str, int](), 0
        for name, stage in spec.stages.items():
            needs = spec.objective(name).needs
            if needs.head:
                heads[stage.objective] = count_parameters(needs.head(nets))
            moved = student + fake * needs.fake + heads.get(stage.objective, 0)
            copies = 2 + (needs.target_decay is not None)
            most = max(most, copies * student + fake + sum(heads.values()) + round(2 * of_average * moved))
    return most
