"""Raw networks F(x, c_noise, condition) and how to build a denoiser from them."""

from msd_ray.networks.adapters import Adapter
from msd_ray.networks.denoiser_spec import DenoiserSpec, count_parameters
from msd_ray.networks.diffusers_dit import DiffusersDiTConfig
from msd_ray.networks.diffusers_pixart import DiffusersPixArtConfig
from msd_ray.networks.diffusers_sd3 import DiffusersSD3Config
from msd_ray.networks.diffusers_sdxl import DiffusersSDXLConfig
from msd_ray.networks.diffusers_unet import DiffusersUNetConfig
from msd_ray.networks.diffusers_unet_condition import DiffusersConditionUNetConfig
from msd_ray.networks.gaussian_mixture import GaussianMixtureConfig
from msd_ray.networks.mlp import MLPConfig
from msd_ray.networks.picture_unet import PictureUNetConfig
from msd_ray.networks.registry import KINDS, PRETRAINED, Kind, kind_class, kind_of
from msd_ray.networks.sizes import StudentSize
from msd_ray.networks.songunet import SongUNetConfig
from msd_ray.networks.unet import UNetConfig

__all__ = [
    "KINDS",
    "PRETRAINED",
    "Adapter",
    "DenoiserSpec",
    "DiffusersConditionUNetConfig",
    "DiffusersDiTConfig",
    "DiffusersPixArtConfig",
    "DiffusersSD3Config",
    "DiffusersSDXLConfig",
    "DiffusersUNetConfig",
    "GaussianMixtureConfig",
    "Kind",
    "MLPConfig",
    "PictureUNetConfig",
    "SongUNetConfig",
    "StudentSize",
    "UNetConfig",
    "count_parameters",
    "kind_class",
    "kind_of",
]
