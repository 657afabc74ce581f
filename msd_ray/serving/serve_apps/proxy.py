"""The middleware that Serve's own HTTP proxy gets from msd_ray. It imports this by name, see `options`."""

from starlette.middleware import Middleware

from msd_ray.serving.gateway.http_request_id import OneRequestId


def middlewares() -> list[Middleware]:
    return [Middleware(OneRequestId)]
