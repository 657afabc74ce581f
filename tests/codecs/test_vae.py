"""Latents of a tiny VAE: their pictures, how images become latents, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.codecs import CodecConfig, load_codec
from msd_ray.codecs.vae import WEIGHTS, Vae
from msd_ray.data import DataConfig, load_data
from msd_ray.errors import UserError
from msd_ray.recipes import load_recipe
from msd_ray.runs.run_context import RunContext

from ..pipelines import write_vae

pytest.importorskip("diffusers")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("said", [{}, {"scaling_factor": 1.5305, "shift_factor": 0.0609}])
def test_pictures_are_what_diffusers_decodes(said: dict[str, float], tmp_path: Path) -> None:
    theirs, x = write_vae(tmp_path / "vae", **said), torch.randn(3, 4, 6, 8)
    codec = load_codec(CodecConfig("vae", {"path": str(tmp_path)}))
    assert codec.picture_shape((4, 6, 8)) == (3, 12, 16)
    scaling, shift = said.get("scaling_factor", 0.18215), said.get("shift_factor", 0.0)
    with torch.no_grad():
        wanted = theirs.decode(x / scaling + shift).sample.clamp(-1, 1)
    pictures = codec.to_pixels(x)
    torch.testing.assert_close(pictures, wanted, atol=1e-5, rtol=0)
    assert torch.equal(pictures[1:2], codec.to_pixels(x[1:2]))  # whatever else is in the batch
    assert codec.to_pixels(x[:0]).shape == (0, 3, 12, 16)


def test_large_images_are_made_of_tiles(tmp_path: Path) -> None:
    theirs, x = write_vae(tmp_path), torch.randn(1, 4, 20, 20)
    whole, tiles = Vae(str(tmp_path), tiles=False), Vae(str(tmp_path))
    small = x[:, :, :8, :8]
    assert torch.equal(whole.to_pixels(small), tiles.to_pixels(small))
    theirs.enable_tiling()
    with torch.no_grad():
        wanted = theirs.decode(x / 0.18215).sample.clamp(-1, 1)
    assert torch.allclose(tiles.to_pixels(x), wanted, atol=1e-5) and not torch.equal(
        tiles.to_pixels(x), whole.to_pixels(x)
    )


@pytest.mark.parametrize(("force_upcast", "same"), [(True, True), (False, False)])
def test_what_needs_fp32_computes_in_it(force_upcast: bool, same: bool, tmp_path: Path) -> None:
    write_vae(tmp_path, force_upcast=force_upcast)
    x = torch.randn(1, 4, 4, 4)
    fp32, asked = Vae(str(tmp_path)).to_pixels(x), Vae(str(tmp_path), "bf16").to_pixels(x)
    assert torch.equal(fp32, asked) == same and asked.dtype == torch.float32
    assert torch.allclose(fp32, asked, atol=0.1)


def test_images_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, images = write_vae(tmp_path / "vae"), tmp_path / "images"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)
    np.save(images / "images.npy", pixels)
    np.save(images / "labels.npy", np.arange(70) % 7)
    config = DataConfig("latents", str(images), {"vae": str(tmp_path / "vae"), "images": "arrays"})
    data = load_data(config)
    assert (data.shape, data.classes, len(data.train), len(data.held_out)) == ((4, 4, 4), 7, 70, 0)
    found = data.train.take(torch.tensor([3, 69, 3]))
    with torch.no_grad():
        of = theirs.encode(torch.from_numpy(pixels[[3, 69]]).float() / 127.5 - 1).latent_dist
    assert found.condition.tolist() == [3, 6, 3] and torch.equal(found.x[0], found.x[2])
    assert ((found.x[:2] / 0.18215 - of.mean).abs() < 6 * of.std).all()
    assert not torch.allclose(found.x[:2], 0.18215 * of.mean, atol=1e-3)  # drawn, not the mean
    monkeypatch.setattr(Vae, "encode", lambda *_: pytest.fail("encoded again"))
    again = load_data(DataConfig("latents", str(images) + "/", config.options))
    assert torch.equal(again.train.all().x, data.train.all().x) and again.fingerprint == data.fingerprint


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"_class_name": "AutoencoderTiny"},
            "is no VAE that can be read: its class is AutoencoderTiny, not AutoencoderKL",
        ),
        ({"_class_name": ["mine", "Vae"]}, "its class is"),
        ({"latent_channels": 10**9}, "its channels are"),
        ({"latents_mean": [0.0] * 4}, "a mean of their own"),
        ({"latent_channels": 8}, "cannot be read"),
    ],
)
def test_what_is_no_vae_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_vae(tmp_path)
    change(tmp_path, **values)
    x = torch.randn(1, 4, 4, 4)
    with pytest.raises(UserError, match=message) as refused:
        Vae(str(tmp_path)).to_pixels(x)
    assert "\n" not in str(refused.value)


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no directory of a VAE"):
        Vae(str(tmp_path / "nowhere")).picture_shape((4, 4, 4))
    write_vae(tmp_path / "pickled")
    (tmp_path / "pickled" / WEIGHTS).rename(tmp_path / "pickled" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=f"has no {WEIGHTS}"):
        Vae(str(tmp_path / "pickled")).picture_shape((4, 4, 4))


def test_samples_of_other_channels_are_refused_before_anything_trains(tmp_path: Path) -> None:
    write_vae(tmp_path)
    codec = f"codec={{kind: vae, options: {{path: '{tmp_path}'}}}}"
    with pytest.raises(
        UserError, match=r"^codec\.kind: vae does not fit the data: the VAE .* has latents of shape \[4, H"
    ):
        _ = RunContext.of("digits", [codec], None).plan
    vae = Vae(str(tmp_path))
    for shape in ((1, 8, 8), (3, 9, 8), (3, 8)):
        with pytest.raises(UserError, match=r"encodes images of shape \[3, H, W\] whose sides are multiples of 2"):
            vae.latent_shape(shape)


def test_a_recipe_says_what_a_vae_has() -> None:
    with pytest.raises(UserError, match=r"unknown key options.pth; did you mean options.path\?"):
        load_recipe("digits", ["codec={kind: vae, options: {pth: somewhere}}"])
