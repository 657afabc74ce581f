"""Features for photographs: clean-fid's Inception-v3, the network of every published FID."""

import hashlib
import logging
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from msd_ray.codecs import to_bytes, to_rgb
from msd_ray.errors import UserError
from msd_ray.evaluation.clean_fid import clean_fid
from msd_ray.evaluation.feature_distances import Features
from msd_ray.storage import Store

WIDTH = 2048
WEIGHTS = "inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""TorchScript is a program; this is the one that we run, and no other."""

log = logging.getLogger(__name__)


class Inception:
    """The 2048 pooled activations, of images resized as clean-fid's mode "clean" does. Knows no classes.

    extractor: [N, 3, 299, 299] float in 0..255 -> [N, 2048].
    """

    name = "inception"

    def __init__(self, extractor: Callable[[Tensor], Tensor], device: torch.device | str = "cpu") -> None:
        self._extractor, self._device = extractor, device
        self._resize = clean_fid("resize").build_resizer("clean")

    @torch.no_grad()
    def features(self, x: Tensor) -> Features:
        resized = np.stack([self._resize(image) for image in to_rgb(x)])
        batch = torch.from_numpy(resized).permute(0, 3, 1, 2).to(self._device)
        return cast(Features, self._extractor(batch).cpu().double().numpy())

    def classify(self, x: Tensor) -> Tensor | None:
        return None


class LegacyInception:
    """The same activations of images as they are, which the network itself resizes: clean-fid's mode
    "legacy_tensorflow", in which EDM's figures and those of most papers are.

    extractor: [N, 3, H, W] uint8 -> [N, 2048].
    """

    name = "inception-legacy"

    def __init__(self, extractor: Callable[[Tensor], Tensor], device: torch.device | str = "cpu") -> None:
        self._extractor, self._device = extractor, device

    @torch.no_grad()
    def features(self, x: Tensor) -> Features:
        batch = to_bytes(x).expand(-1, 3, -1, -1).to(self._device)
        return cast(Features, self._extractor(batch).cpu().double().numpy())

    def classify(self, x: Tensor) -> Tensor | None:
        return None


def load(cache: Store, path: str = "", legacy: bool = False) -> Inception | LegacyInception:
    """Inception with its published weights, from the file `path`, else from `cache`, else downloaded into it (96 MB).

    Raises UserError where they are in none of these places.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:  # clean-fid loads from a path, and the cache may be no folder
        Path(folder, WEIGHTS).write_bytes(_from_file(path) if path else _weights(cache))
        program = clean_fid("inception_torchscript").InceptionV3W(folder, download=False, resize_inside=legacy)
    network = program.to(device).eval()
    return LegacyInception(network, device) if legacy else Inception(network, device)


def _from_file(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as failure:
        raise UserError(f"evaluation.inception: cannot read {path}: {failure.strerror}") from None
    if not _genuine(content):
        raise UserError(f"evaluation.inception: {path} is not {WEIGHTS} with sha256 {SHA256}")
    return content


def _weights(cache: Store) -> bytes:
    if cache.exists(WEIGHTS):
        kept = cache.read(WEIGHTS)
        if _genuine(kept):
            return kept
        log.warning("%s in %s is damaged and is downloaded again", WEIGHTS, cache.uri)
    url = str(clean_fid("downloads_helper").inception_url)
    try:
        fetched = _download(url)
    except OSError as failure:
        raise UserError(
            f"cannot download {url} ({failure}); put that file, {WEIGHTS} with sha256 {SHA256}, into {cache.uri}, or "
            f"name it as evaluation.inception"
        ) from None
    if not _genuine(fetched):
        raise UserError(f"{url} is not the file it used to be; put {WEIGHTS} with sha256 {SHA256} into {cache.uri}")
    cache.write(WEIGHTS, fetched)
    return fetched


def _genuine(weights: bytes) -> bool:
    return hashlib.sha256(weights).hexdigest() == SHA256


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as response:
        return cast(bytes, response.read())
