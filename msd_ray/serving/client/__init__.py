"""A client of the service. Needs neither ray nor torch.

with Client("127.0.0.1:9000") as client:
    made = client.generate([3, "8"], seeds=[0, 1])
    made[0].picture().save("three.png")
"""

from msd_ray.serving.client.asynchronous import AsyncClient
from msd_ray.serving.client.blocking import Client
from msd_ray.serving.client.calls import Retry
from msd_ray.serving.client.channel import Connection
from msd_ray.serving.client.generated_image import GeneratedImage, RefusedError

__all__ = ["AsyncClient", "Client", "Connection", "GeneratedImage", "RefusedError", "Retry"]
