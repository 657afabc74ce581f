"""What samples look like: pictures, points, or what a user's own codec makes of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from own_parts import Unfold, folded_digits
from PIL import Image
from torch.nn import functional as F

from msd_ray.codecs import IDENTITY, NO_CODEC, Codec, CodecConfig, as_stored, load_codec, pictures, to_bytes
from msd_ray.conditions import Classes, PartitionConfig, fit
from msd_ray.data import DataConfig, load_data
from msd_ray.ensemble import Ensemble, Member, read_description, save_ensemble
from msd_ray.errors import CorruptError, UserError
from msd_ray.evaluation import features_name, load_features
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.recipes import load_recipe
from msd_ray.runs.generate import generate_file
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import keep_recipe, refuse_other_recipe
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.student_worker import encoded, load_part
from msd_ray.storage import Store
from msd_ray.training.preview import can_preview

KIND = "own_parts:Unfold"
FOLDED = DenoiserSpec(UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0), (4, 4, 4), 10)


def saved(where: Path, codec: CodecConfig = NO_CODEC) -> str:
    torch.manual_seed(0)
    partition = fit(PartitionConfig(1), Classes.numbered(10))
    weights = {name: 0.1 * torch.randn_like(w) for name, w in FOLDED.build().state_dict().items()}
    member = Member(0, FOLDED, 80.0, 640, weights)
    save_ensemble(Store(str(where)), {"name": "own"}, partition, tuple("0123456789"), [member], codec=codec)
    return str(where)


@pytest.mark.parametrize(
    ("codec", "shape", "picture"),
    [
        (IDENTITY, (1, 8, 8), (1, 8, 8)),
        (IDENTITY, (3, 64, 64), (3, 64, 64)),
        (IDENTITY, (4, 32, 32), None),
        (IDENTITY, (2,), None),
        (Unfold(), (4, 4, 4), (1, 8, 8)),
    ],
)
def test_the_shape_of_a_picture(codec: Codec, shape: tuple[int, ...], picture: tuple[int, ...] | None) -> None:
    assert codec.picture_shape(shape) == picture
    if picture:
        assert codec.to_pixels(torch.zeros(5, *shape)).shape == (5, *picture)


def test_pictures_of_rows_of_samples_and_points_as_they_are() -> None:
    x, points = torch.randn(3, 5, 4, 4, 4), torch.randn(3, 5, 2)
    assert torch.equal(pictures(Unfold(), x)[2, 4], F.pixel_shuffle(x[2, 4], 2))
    assert pictures(IDENTITY, points) is points


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ("codec.kind=vea", "codec: there is no codec 'vea', only identity, vae, levels, or module:Class for your own"),
        ("codec.knid=identity", "unknown key codec.knid; did you mean codec.kind?"),
    ],
)
def test_a_recipe_names_one_that_there_is(codec: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        load_recipe("digits", [codec])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CodecConfig("own_parts:Missing"), "codec.kind: 'own_parts:Missing' cannot be imported"),
        (CodecConfig(KIND, {"n": 1}), "codec.kind: .* gives no codec: .*unexpected keyword"),
        (CodecConfig("builtins:dict"), "codec.kind: what builtins:dict gives has no picture_shape"),
    ],
)
def test_what_is_no_codec_is_refused(config: CodecConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_codec(config)


class InFourChannels:
    def picture_shape(self, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (4, 8, 8)

    def to_pixels(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("recipe", "kind", "message"),
    [
        ("toy2d", KIND, "codec.kind: own_parts:Unfold does not fit the data: not enough values to unpack"),
        ("digits", f"{__name__}:InFourChannels", r"makes pictures of shape \[4, 8, 8\], neither \[1, H, W\] nor"),
        ("digits", "own_parts:Missing", "codec.kind: 'own_parts:Missing' cannot be imported"),
    ],
)
def test_a_codec_that_does_not_fit_is_refused_before_anything_trains(recipe: str, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = RunContext.of(recipe, [f"codec.kind='{kind}'"], None).plan


def test_a_manifest_says_nothing_of_a_codec_that_does_nothing(tmp_path: Path) -> None:
    assert "codec" not in read_description(Store(saved(tmp_path / "plain"))).manifest.body
    assert Ensemble.load(str(tmp_path / "plain")).codec == IDENTITY


def test_an_ensemble_keeps_its_codec_and_is_read_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = saved(tmp_path, CodecConfig(KIND))
    with pytest.raises(UserError, match=f"the ensemble names {KIND} as its codec, .*set MSD_RAY_OWN_CODE=own_parts$"):
        Ensemble.load(uri)
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "own_parts")
    assert Ensemble.load(uri).codec == Unfold() == load_part(uri, 0, describe(uri).parts[0], "cpu")[0].codec


@pytest.mark.parametrize("raw", [[], {"kind": 3}, {"knid": "identity"}, {"kind": "vea"}])
def test_a_manifest_that_makes_no_sense_is_damaged(tmp_path: Path, raw: object) -> None:
    from msd_ray.storage import write_bundle

    known = read_description(Store(saved(tmp_path / "first")))
    write_bundle(Store(str(tmp_path / "second")), {**known.manifest.body, "codec": raw}, [])
    with pytest.raises(CorruptError, match="makes no sense"):
        read_description(Store(str(tmp_path / "second")))


def test_pictures_are_generated_and_arrays_are_what_students_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "own_parts")
    uri = saved(tmp_path / "own", CodecConfig(KIND))
    generate_file(uri, "3", "7", tmp_path / "made.png")
    generate_file(uri, "3", "7", tmp_path / "made.npy")
    made = Ensemble.load(uri).generate([3], [7])
    assert np.array_equal(np.load(tmp_path / "made.npy")[0, 0], made[0].numpy())
    sheet = np.asarray(Image.open(tmp_path / "made.png").convert("L"))
    scale = len(sheet) // 8
    assert np.array_equal(sheet[::scale, ::scale], to_bytes(F.pixel_shuffle(made, 2))[0, 0].numpy())
    with pytest.raises(UserError, match="have no pictures: write them"):  # of four channels, without a codec
        generate_file(saved(tmp_path / "plain"), "3", "7", tmp_path / "made.png")


def test_a_service_sends_pictures_and_another_codec_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSD_RAY_OWN_CODE", "own_parts")
    plain, own = describe(saved(tmp_path / "plain")), describe(saved(tmp_path / "own", CodecConfig(KIND)))
    assert own.has_pictures and not plain.has_pictures
    assert own.parts != plain.parts and own.name != plain.name
    x = Ensemble.load(own.uri).generate([3], [7])[0]
    picture = Image.open(io.BytesIO(encoded(x, "png", Unfold())))
    assert np.array_equal(np.asarray(picture), to_bytes(F.pixel_shuffle(x, 2))[0].numpy())
    assert encoded(x, "float32", Unfold()) == x.numpy().tobytes()


def test_samples_are_judged_by_their_pictures(tmp_path: Path) -> None:
    digits, folded = load_data(DataConfig("digits")), folded_digits()
    assert features_name("auto", (4, 4, 4), Unfold()) == "digits"
    assert features_name("auto", (4, 4, 4)) == features_name("auto", (2,)) == "identity"
    of_pictures = load_features("identity", digits, Store(str(tmp_path)))
    of_samples = load_features("identity", folded, Store(str(tmp_path)), Unfold())
    real, stored = digits.held_out.all().x[:20], folded.held_out.all().x[:20]
    assert np.array_equal(of_samples.features(stored), of_pictures.features(real))
    assert torch.equal(of_samples.classify(stored), of_pictures.classify(real))  # type: ignore[arg-type]


def test_a_run_of_another_codec_is_another_run(tmp_path: Path) -> None:
    first = RunContext.of("digits", ["data.name=own_parts:folded_digits", f"codec.kind={KIND}"], str(tmp_path))
    keep_recipe(first.store, first.recipe)
    assert RunContext.of_run(first.store, []).codec == Unfold()
    other = load_recipe("digits", ["data.name=own_parts:folded_digits"])
    with pytest.raises(UserError, match=f"another codec.kind .there {KIND}, here identity"):
        refuse_other_recipe(first.store, other)


def test_previews_are_of_what_has_pictures() -> None:
    plan = RunContext.of("digits", [], None).plan
    assert can_preview(plan.students[0].spec, IDENTITY)
    points = RunContext.of("toy2d", [], None).plan
    assert not can_preview(points.students[0].spec, IDENTITY)


def test_points_stay_what_they_are() -> None:
    points = torch.randn(5, 2)
    assert torch.equal(as_stored(points), points)
