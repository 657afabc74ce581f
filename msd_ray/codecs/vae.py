"""Latents of an `AutoencoderKL` of diffusers, as Stable Diffusion has them (arXiv 2112.10752)."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from msd_ray.errors import UserError, one_line
from msd_ray.extras import needed
from msd_ray.rng import stream

CLASS, WEIGHTS = "AutoencoderKL", "diffusion_pytorch_model.safetensors"
SCALING = 0.18215
"""Of files that are older than the key `scaling_factor`."""
_MOST_CHANNELS, _MOST_LEVELS = 1 << 14, 12


@dataclass(frozen=True)
class _Shape:
    """latents, images: their channels. factor: pixels of a side for each of a latent's."""

    latents: int
    images: int
    factor: int
    scaling: float
    shift: float
    needs_fp32: bool


@dataclass(frozen=True)
class Vae:
    """path: its directory, or that of a pipeline that has one as `vae`. precision: which it computes in; fp32 always
    where its config says `force_upcast`. tiles: whether images larger than those it was trained on are made of tiles,
    which takes less memory and blends their borders. One sample at a time, so that each depends on no other."""

    path: str
    precision: Literal["fp32", "bf16"] = "fp32"
    tiles: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.path.abspath(os.path.expanduser(self.path)))

    def picture_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Raises UserError where these are no latents of it."""
        wanted = self._shape
        if len(sample_shape) != 3 or sample_shape[0] != wanted.latents:
            raise UserError(
                f"the VAE at {self.path} has latents of shape [{wanted.latents}, H, W], not {list(sample_shape)}"
            )
        return (wanted.images, *(side * wanted.factor for side in sample_shape[1:]))

    def latent_shape(self, picture_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of images of that shape. Raises UserError where it cannot encode these."""
        wanted = self._shape
        sides = picture_shape[1:]
        if len(sides) != 2 or picture_shape[0] != wanted.images or any(side % wanted.factor for side in sides):
            raise UserError(
                f"the VAE at {self.path} encodes images of shape [{wanted.images}, H, W] whose sides are multiples of "
                f"{wanted.factor}, not {list(picture_shape)}"
            )
        return (wanted.latents, *(side // wanted.factor for side in sides))

    @torch.no_grad()
    def to_pixels(self, x: Tensor) -> Tensor:
        """Of latents [B, C, H, W]."""
        shape, model = self._shape, self.model(x.device)
        latents = (x / shape.scaling + shape.shift).to(model.dtype)
        pictures = [model.decode(one[None], return_dict=False)[0].float().clamp(-1, 1) for one in latents]
        return torch.cat(pictures) if pictures else x.new_zeros(0, *self.picture_shape(tuple(x.shape[1:])))

    @torch.no_grad()
    def encode(self, images: Tensor, numbers: Sequence[int]) -> Tensor:
        """Latents, float32, of images [B, C, H, W] in [-1, 1], each drawn from its distribution by the image's number.
        Their variance is about 1."""
        shape, model = self._shape, self.model(images.device)
        drawn = [
            _drawn(model.encode(image[None].to(model.dtype)).latent_dist, number)
            for image, number in zip(images, numbers, strict=True)
        ]
        return (torch.cat(drawn) - shape.shift) * shape.scaling

    def model(self, device: torch.device) -> Any:
        """The `AutoencoderKL`. Raises UserError where it cannot be read."""
        whole = self.precision == "fp32" or self._shape.needs_fp32
        return _opened(self._folder, torch.float32 if whole else torch.bfloat16, self.tiles, device)

    @cached_property
    def fingerprint(self) -> str:
        """Of its files."""
        digest = hashlib.sha256()
        for name in ("config.json", WEIGHTS):
            with open(self._folder / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    @cached_property
    def _folder(self) -> Path:
        """Raises UserError where it has no weights that may be read."""
        root = Path(self.path)
        folder = root / "vae" if (root / "vae").is_dir() else root
        if not (folder / "config.json").is_file():
            raise UserError(f"codec.options.path: {self.path} is no directory of a VAE: it has no config.json")
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"codec.options.path: {folder} has no {WEIGHTS}")
        return folder

    @cached_property
    def _shape(self) -> _Shape:
        try:
            config = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))
            return _shape_of(config)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"codec.options.path: {self.path} is no VAE that can be read: {one_line(error)}") from None


def _shape_of(config: dict[str, Any]) -> _Shape:
    """Raises ValueError where it is of another class, or of enormous sizes."""
    if (name := config.get("_class_name")) != CLASS:
        raise ValueError(f"its class is {name}, not {CLASS}")
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ValueError("its latents have a mean of their own in each channel, which is not read")
    widths = config["block_out_channels"]
    channels = [config["latent_channels"], config["out_channels"], *widths]
    if len(widths) > _MOST_LEVELS or any(type(n) is not int or not 0 < n <= _MOST_CHANNELS for n in channels):
        raise ValueError(f"its channels are {channels}")
    return _Shape(
        latents=config["latent_channels"],
        images=config["out_channels"],
        factor=2 ** (len(widths) - 1),
        scaling=float(config.get("scaling_factor", SCALING)),
        shift=float(config.get("shift_factor") or 0.0),
        needs_fp32=bool(config.get("force_upcast")),
    )


def _drawn(of: Any, number: int) -> Tensor:
    """A sample [1, ...] of the distribution of an image's latents."""
    noise = torch.randn(of.mean.shape, generator=stream("latents", number))
    sample: Tensor = of.mean.float() + of.std.float() * noise.to(of.mean.device)
    return sample


@lru_cache(maxsize=2)
def _opened(folder: Path, dtype: torch.dtype, tiles: bool, device: torch.device) -> Any:
    """The model, once in a process. Executes nothing that lies there."""
    kind = getattr(needed("diffusers", "hf"), CLASS)
    try:
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype)
    except Exception as error:  # diffusers raises whatever it likes
        raise UserError(f"codec.options.path: {folder} cannot be read: {one_line(error)}") from None
    if tiles:
        model.enable_tiling()  # which makes tiles of larger images only
    return model.eval().requires_grad_(False).to(device)
