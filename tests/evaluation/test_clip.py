"""CLIP's features and the CLIP score, with a tiny model of random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_ray.data import DataSet
from msd_ray.errors import UserError
from msd_ray.evaluation import EvaluationConfig, FeatureFiles, clip, load_features
from msd_ray.evaluation.feature_nets import dimensions
from msd_ray.storage import Store
from tests.pipelines import write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clip")
    write_clip(root)
    return root


def test_the_score_is_a_hundred_times_the_mean_of_cosines_that_are_not_negative() -> None:
    pictures = np.array([[3.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    texts = np.array([[0.5, 0.0], [0.0, 7.0], [1.0, 0.0]])
    assert clip.clip_score(pictures, texts) == pytest.approx(100 * (1 + 2**-0.5 + 0) / 3)
    with pytest.raises(ValueError, match="needs samples"):
        clip.clip_score(pictures[:0], texts[:0])


def test_pictures_and_prompts_have_the_vectors_of_the_model(digits: DataSet, folder: Path, tmp_path: Path) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(folder).eval()
    net = load_features("clip", digits, Store(str(tmp_path)), files=FeatureFiles(clip=str(folder)))
    x, texts = digits.held_out.all().x[:3], ["a red car", "x" * 500]
    seen = [np.repeat(((image[0] + 1) * 127.5).round().byte().numpy()[..., None], 3, 2) for image in x]
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(folder)(images=seen, return_tensors="pt")
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        made = model(**tokens, **pixels)
    for ours, theirs in (
        (net.features(x), made.image_embeds),
        (clip.load(str(folder)).of_texts(texts), made.text_embeds),
    ):
        unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        assert np.allclose(unit, theirs.double().numpy(), atol=1e-6)
    assert net.features(x).shape[1] == dimensions("clip", digits.shape, FeatureFiles(clip=str(folder))) == 8


def test_its_files_are_known_by_what_they_hold(folder: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "same")
    write_clip(tmp_path / "other", seed=1)
    assert clip.fingerprint(str(folder)) == clip.fingerprint(str(tmp_path / "same"))
    assert clip.fingerprint(str(folder)) != clip.fingerprint(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        (lambda root: (root / "tokenizer.json").unlink(), r"has no tokenizer\.json; save model"),
        (lambda root: (root / "config.json").write_text("[]"), r"config\.json is not a CLIPModel's"),
        (lambda root: _change(root, architectures=["CLIPTextModel"]), "has no CLIPModel, but CLIPTextModel"),
        (lambda root: (root / "model.safetensors").write_bytes(b"no"), "cannot be read"),
        (lambda root: _change(root, projection_dim=16), "cannot be read"),
    ],
)
def test_damaged_directories_are_refused_in_one_line(flaw: Any, said: str, tmp_path: Path) -> None:
    write_clip(tmp_path)
    flaw(tmp_path)
    with pytest.raises(UserError, match=rf"^evaluation\.clip: .*{said}") as refused:
        clip.load(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_recipe_names_the_directory_with_the_features_and_only_with_them() -> None:
    for wrong in ({"features": "clip"}, {"clip": "somewhere"}, {"also": ("clip",)}):
        with pytest.raises(ValueError, match="belongs to the features clip"):
            EvaluationConfig(**wrong)  # type: ignore[arg-type]
    assert Path(EvaluationConfig(also=("clip",), clip="here").clip).is_absolute()


def _change(root: Path, **changes: Any) -> None:
    path = root / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
