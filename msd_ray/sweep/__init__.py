"""Sweeps: Ray Tune looks for the partition and the student sizes, and finds a Pareto front of quality against cost."""
