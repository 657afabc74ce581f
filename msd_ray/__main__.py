"""`python -m msd_ray` is the same program as `msd-ray`."""

from msd_ray.cli import main

main()
