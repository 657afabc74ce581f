"""msd_ray: distil one diffusion teacher into an ensemble of one-step students, on Ray."""

__version__ = "0.1.0"
