"""Training one student, or one teacher, in one process and without Ray."""
