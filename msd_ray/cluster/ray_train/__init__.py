"""Students that several workers train together, under Ray Train."""
