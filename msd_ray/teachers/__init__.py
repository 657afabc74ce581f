"""Teachers: where one comes from, and how it is asked."""

from msd_ray.teachers.local_teacher import Answer, LocalTeacher, Teacher
from msd_ray.teachers.source import FOUND, SOURCES, TRAINED, TeacherSource, load_source

__all__ = ["FOUND", "SOURCES", "TRAINED", "Answer", "LocalTeacher", "Teacher", "TeacherSource", "load_source"]
