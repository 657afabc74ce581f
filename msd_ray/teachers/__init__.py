"""Teachers: how one is asked, and how one is trained when none is at hand."""

from msd_ray.teachers.local_teacher import Answer, LocalTeacher, Teacher

__all__ = ["Answer", "LocalTeacher", "Teacher"]
