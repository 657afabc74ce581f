"""What samples look like: the only room, beside the networks, that knows how many channels or dimensions they have."""

from msd_ray.codecs.codec import IDENTITY, NO_CODEC, Codec, CodecConfig, Identity, load_codec, pictures
from msd_ray.codecs.pixels import as_stored, edges, to_bytes, to_image, to_rgb

__all__ = [
    "IDENTITY",
    "NO_CODEC",
    "Codec",
    "CodecConfig",
    "Identity",
    "as_stored",
    "edges",
    "load_codec",
    "pictures",
    "to_bytes",
    "to_image",
    "to_rgb",
]
