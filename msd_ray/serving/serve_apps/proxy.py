"""What Serve's HTTP proxy, which is not ours, is given of ours. It imports this by name, see `options`."""

from starlette.middleware import Middleware

from msd_ray.serving.gateway.http_request_id import OneRequestId


def middlewares() -> list[Middleware]:
    return [Middleware(OneRequestId)]
