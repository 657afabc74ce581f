"""A UNet that is shown a picture: what it sees of it, and that it learns from it."""

import pytest
import torch
from torch.nn import functional as F

from msd_ray.diffusion import Noise, few_steps, heun, one_step
from msd_ray.networks import DenoiserSpec, StudentSize, UNetConfig
from msd_ray.networks.picture_unet import PictureUNet, PictureUNetConfig

CONFIG = PictureUNetConfig(unet=UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_unet_of_input_and_enlarged_picture_side_by_side(channels: int) -> None:
    torch.manual_seed(0)
    net = CONFIG.build((channels, 8, 8), 16).double()
    assert isinstance(net, PictureUNet)
    torch.nn.init.normal_(net.unet.conv_out.weight)
    x, c_noise = torch.randn(2, channels, 8, 8).double(), torch.randn(2).double()
    picture = torch.rand(2, channels, 4, 4).double()
    beside = torch.cat([x, F.interpolate(picture, scale_factor=2, mode="bicubic")], dim=1)
    expected = net.unet(beside, c_noise, torch.zeros(2, dtype=torch.long))[:, :channels]
    assert torch.equal(net(x, c_noise, picture), expected)
    assert [h.shape[1:] for h in net.encode(x, c_noise, picture)] == [torch.Size(s) for s in net.feature_shapes]


def test_its_output_follows_the_picture() -> None:
    torch.manual_seed(0)
    denoiser = DenoiserSpec(CONFIG, (1, 8, 8), 16).build()
    torch.nn.init.normal_(denoiser.network.unet.conv_out.weight)
    picture = torch.rand(2, 1, 4, 4, requires_grad=True)
    denoiser(torch.randn(2, 1, 8, 8), torch.full((2,), 80.0), picture).sum().backward()
    assert picture.grad is not None and picture.grad.abs().min() > 0


def test_it_is_described_and_cut_as_the_unet_in_it() -> None:
    spec = DenoiserSpec(CONFIG, (1, 8, 8), 16)
    assert DenoiserSpec.from_json(spec.to_json()) == spec
    assert CONFIG.cut(StudentSize(channel_factor=0.5)).unet == CONFIG.unet.cut(StudentSize(channel_factor=0.5))
    begins = DenoiserSpec(CONFIG.cut(StudentSize(begins="picture")), (1, 8, 8), 16)
    assert DenoiserSpec.from_json(begins.to_json()) == begins != spec
    wrong = PictureUNetConfig(unet=UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(32,)))
    assert "no level of 32 pixels" in wrong.misfit((1, 8, 8))


def test_a_generator_that_begins_with_its_picture_makes_its_sample_from_there() -> None:
    torch.manual_seed(0)
    config = CONFIG.cut(StudentSize(begins="picture"))
    begins, plain = (DenoiserSpec(c, (1, 8, 8), 16).build().requires_grad_(False) for c in (config, CONFIG))
    torch.nn.init.normal_(begins.network.unet.conv_out.weight)
    plain.load_state_dict(begins.state_dict())
    picture, z, sigma = torch.rand(2, 1, 4, 4), torch.randn(2, 1, 8, 8), torch.full((2,), 0.7)
    enlarged = F.interpolate(picture, scale_factor=2, mode="bicubic")
    assert torch.equal(one_step(begins, z, picture, 0.7), plain(enlarged + 0.7 * z, sigma, picture))
    assert torch.equal(one_step(plain, z, picture, 0.7), plain(0.7 * z, sigma, picture))
    two = few_steps(begins, z, picture, 2 * z[None], [0.7, 0.1])
    assert torch.equal(two, plain(one_step(begins, z, picture, 0.7) + 0.1 * 2 * z, torch.full((2,), 0.1), picture))
    assert torch.equal(heun(begins, z, picture, Noise(), 3), heun(plain, z, picture, Noise(), 3))  # from noise alone
