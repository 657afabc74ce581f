"""Raw networks F(x, c_noise, condition) and how to build a denoiser from them."""

from msd_ray.networks.denoiser_spec import DenoiserSpec, NetworkConfig, count_parameters
from msd_ray.networks.mlp import MLPConfig
from msd_ray.networks.sizes import StudentSize, resize
from msd_ray.networks.unet import UNetConfig

__all__ = [
    "DenoiserSpec",
    "MLPConfig",
    "NetworkConfig",
    "StudentSize",
    "UNetConfig",
    "count_parameters",
    "resize",
]
