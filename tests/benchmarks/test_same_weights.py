from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from same_weights import OTHERWISE, TWO_STUDENTS, VARIANTS, differences
from same_weights_side import divided, label, shortened, weights

from msd_ray.recipes import load_recipe
from msd_ray.recipes.load import shipped


def save(path: Path, **tensors: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)


def test_weights_are_told_apart_by_bytes_shape_dtype_and_name(tmp_path: Path) -> None:
    zeros = torch.zeros(2, 3)
    sides = (
        {"a": zeros, "same": zeros, "moved": torch.ones(1)},
        {
            "a": zeros.reshape(3, 2),
            "same": zeros,
            "renamed": torch.ones(1),
        },
    )
    for side, tensors in zip(("old", "new"), sides, strict=True):
        save(tmp_path / side / "teacher" / "denoiser.safetensors", **tensors)
        save(tmp_path / side / "ensemble" / "student-0001.safetensors", a=zeros)
    save(tmp_path / "new" / "students" / "0001" / "ckpt-000000000064" / "ema.safetensors", a=zeros)
    old, new = (weights(tmp_path / side) for side in ("old", "new"))
    assert differences(old, old) == []
    assert differences(old, new) == ["ema 1 64: a", "teacher: a", "teacher: moved", "teacher: renamed"]
    save(tmp_path / "old" / "ensemble" / "student-0001.safetensors", a=-zeros)  # equal numbers, other bits
    assert "ensemble 1: a" in differences(weights(tmp_path / "old"), new)


def test_a_file_is_named_by_what_it_holds_rather_than_by_its_folders() -> None:
    assert label(Path("students/0001/ckpt-000000000064/head.adm.safetensors")) == "head.adm 1 64"
    assert label(Path("parts/1/checkpoint-64/head.adm.safetensors")) == "head.adm 1 64"


def test_files_that_would_be_confused_are_refused(tmp_path: Path) -> None:
    for folder in ("students", "others"):
        save(tmp_path / folder / "0001" / "ema.safetensors", a=torch.zeros(1))
    with pytest.raises(ValueError, match="cannot be told apart"):
        weights(tmp_path)


def test_an_override_that_a_side_does_not_know_is_left_out() -> None:
    given = ["partition.k=2", "training.prefetch_far=3", "seed=1"]
    assert divided("toy2d", given) == (["partition.k=2", "seed=1"], ["training.prefetch_far=3"])


@pytest.mark.parametrize("name", [*shipped(), *VARIANTS])
def test_every_recipe_can_be_shortened(name: str) -> None:
    recipe, own = VARIANTS.get(name, (name, OTHERWISE.get(name, TWO_STUDENTS)))
    made = load_recipe(recipe, [*shortened(recipe), *own])
    assert all(stage.images == 64 for stage in made.stages.values())
    assert divided(recipe, [*shortened(recipe), *own])[1] == []
