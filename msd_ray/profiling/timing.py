"""How long the pieces of a plan take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageTiming:
    """Seconds per image of a student's stage. own: its computing, without the teacher's. teacher: what its requests
    cost a teacher elsewhere; 0 where the teacher is in the student, whose own seconds it then is part of. waits: how
    long a student that has teacher and machine to itself waits for answers."""

    own: float
    teacher: float = 0.0
    waits: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds, by `Clock`; each a median. device: cpu or cuda.

    stages: by name. open: to read a student from its checkpoint. segment: its FID probe and checkpoint. teacher: per
    image of the teacher's own training. answer: of one teacher evaluation, per image. start: of a process.
    """

    device: str
    stages: dict[str, StageTiming]
    open: float
    segment: float
    teacher: float
    answer: float
    start: float
