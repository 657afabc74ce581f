"""The page at /, on which a person can try the service. It asks the HTTP API as any other caller does."""

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS = {
    # nothing from elsewhere, and no script but ours: whatever a label or a message says, it stays text
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_playground(app: FastAPI) -> None:
    """The page at / and its scripts and styles at /playground/: read now, so that no request names a file. Open to all:
    nothing in it is secret, and it asks for a token where the service does."""
    for file in files("msd_ray.serving.gateway").joinpath("page").iterdir():
        path = "/" if file.name == "index.html" else f"/playground/{file.name}"
        app.get(path, include_in_schema=False)(_giving(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]))


def _giving(content: bytes, media_type: str):  # type: ignore[no-untyped-def]
    async def give() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return give
