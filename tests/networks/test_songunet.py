"""DDPM++ and NCSN++; that they compute what the authors' do is tested in tests/golden."""

import pytest
import torch

from msd_ray.networks import DenoiserSpec, SongUNetConfig, StudentSize, UNetConfig

SMALL, LARGE = (2, 2, 2), (1, 2, 2, 2)
AUGMENT = 9  # inputs of a layer that only their training needs, one for each width of the noise embedding


@pytest.mark.parametrize(
    ("form", "multipliers", "size", "classes", "published"),
    [
        ("ddpm++", SMALL, 32, 10, 55_735_299),
        ("ddpm++", SMALL, 32, 0, 55_733_891),
        ("ncsn++", SMALL, 32, 10, 56_400_643),
        ("ncsn++", SMALL, 32, 0, 56_397_827),
        ("ddpm++", LARGE, 64, 0, 61_805_571),
        ("ncsn++", LARGE, 64, 0, 62_761_091),
    ],
)
def test_published_numbers_of_parameters(
    form: str, multipliers: tuple[int, ...], size: int, classes: int, published: int
) -> None:
    """CIFAR-10, FFHQ and AFHQv2."""
    network = SongUNetConfig(form=form, multipliers=multipliers)  # type: ignore[arg-type]
    width = 128 * (2 if form == "ncsn++" else 1)
    assert DenoiserSpec(network, (3, size, size), classes).parameters() + AUGMENT * width == published


def test_the_baselines_have_no_augmentation() -> None:
    assert DenoiserSpec(SongUNetConfig(), (3, 32, 32), 0).parameters() == 55_732_739


def test_imagenet_64() -> None:
    """iDDPM has six channels in its last convolution, three of them for variances."""
    ours = DenoiserSpec(UNetConfig(), (3, 64, 64), 1000).parameters()
    assert ours == 295_899_267
    assert ours + 3 * (192 * 9 + 1) == 295_904_454


@pytest.mark.parametrize("form", ["ddpm++", "ncsn++"])
def test_it_starts_near_the_identity_of_its_last_layer(form: str) -> None:
    """As EDM starts it: the last convolution is a hundred thousandth of the others, so F is nearly zero."""
    torch.manual_seed(0)
    network = SongUNetConfig(form=form, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)  # type: ignore[arg-type]
    built = network.build((3, 8, 8), 4)
    out = built(torch.randn(2, 3, 8, 8), torch.zeros(2), torch.tensor([0, 3]))
    assert 0 < out.abs().max() < 1e-3
    assert sum(p.numel() for p in built.parameters()) == DenoiserSpec(network, (3, 8, 8), 4).parameters()


def test_a_smaller_one_is_cut_from_it() -> None:
    cut = SongUNetConfig(form="ncsn++").cut(StudentSize(channel_factor=0.5, blocks=2))
    assert cut == SongUNetConfig(form="ncsn++", channels=64, blocks=2)
    assert cut.misfit((3, 32, 32)) == ""
    assert cut.misfit((3, 20, 20)).endswith("only of 20, 10, 5; write network.attention=[]")
    with pytest.raises(ValueError, match="3 levels need a resolution divisible by 4, not 30"):
        cut.build((3, 30, 30), 0)
