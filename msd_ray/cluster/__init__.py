"""The Ray part: the driver, one actor per student, the pool of teachers."""
