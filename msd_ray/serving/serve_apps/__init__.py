"""The service on Ray Serve. With msd_ray.cluster, the only package that imports ray."""
