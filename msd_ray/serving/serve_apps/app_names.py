"""The names of the Serve applications. Each can be replaced without touching the others."""

import json

GATEWAY = "msd-ray"
REGISTRY = "msd-ray-versions"
ANY_PART = "msd-ray-any-part"
_PART = "msd-ray-part-"


def part_app(version: str) -> str:
    """The application of the students of one part, by their version: equal students are deployed once, whichever
    ensembles they belong to."""
    return _PART + version


def is_part_app(name: str) -> bool:
    return name.startswith(_PART)


def is_ours(name: str) -> bool:
    return name in (GATEWAY, REGISTRY, ANY_PART) or is_part_app(name)


def model_id(uri: str, part: int, version: str) -> str:
    """The id by which a multiplexed replica knows which part to load; the replica parses it as JSON."""
    return json.dumps([uri, part, version])
