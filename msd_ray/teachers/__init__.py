"""Teachers: where one comes from, and how it is asked."""

from msd_ray.teachers.local_teacher import Answer, LocalTeacher, Teacher
from msd_ray.teachers.source import FOUND, TRAINED, TeacherSource

__all__ = ["FOUND", "TRAINED", "Answer", "LocalTeacher", "Teacher", "TeacherSource"]
