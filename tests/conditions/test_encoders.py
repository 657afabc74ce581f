"""The text encoders of tiny pipelines of PixArt's, Stable Diffusion 3's and SDXL's kind as embedders."""

from pathlib import Path
from typing import Any

import pytest
import torch

from msd_ray.conditions import Conditions, ConditionsConfig, PartitionConfig, fit, make_conditions
from msd_ray.errors import UserError

from ..pipelines import write_sdxl
from ..teachers.diffusers_directories import change
from ..transformer_pipelines import write_pixart, write_sd3

pytest.importorskip("diffusers")
PROMPTS = ("a red car", "A Cat with a hat", "???", "dog <pad> x", "a </s> b <pad>", "word " * 150)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def pixart(root: Path) -> Any:
    return write_pixart(root / "pixart")


def known(folder: Path, embedder: str) -> Conditions:
    return make_conditions(ConditionsConfig("prompts", {"embedder": embedder, "encoder": str(folder)}), PROMPTS)


def assert_computed_together(ours: Conditions, tokens: torch.Tensor) -> None:
    made, vectors = ours.both(tokens)
    assert torch.equal(made, ours.embed(tokens)) and torch.equal(vectors, ours.vectors(tokens))
    assert made.shape[1:] == ours.embedded_shape


@pytest.mark.parametrize("sigma", [False, True])
def test_pixarts_prompts_are_encoded_as_its_pipeline_does(sigma: bool, tmp_path: Path) -> None:
    pipeline = write_pixart(tmp_path, name="PixArtSigmaPipeline" if sigma else "PixArtAlphaPipeline")
    ours = known(tmp_path, "t5-tokens")
    text, mask, empty, empty_mask = pipeline.encode_prompt(list(PROMPTS), device="cpu")
    made = ours.embed(ours.encode(PROMPTS))
    assert ours.width == 24 and made.shape == (6, 300 if sigma else 120, 25)
    assert_computed_together(ours, ours.encode(PROMPTS))
    torch.testing.assert_close(made[..., :-1], text, **CLOSE)
    assert torch.equal(made[..., -1], mask.float())
    assert ours.unconditional is not None
    none = ours.embed(ours.unconditional[None])[0]
    torch.testing.assert_close(none, torch.cat([empty[0], empty_mask[0, :, None].float()], dim=-1), **CLOSE)


@pytest.mark.parametrize("t5", [False, True])
def test_the_prompts_of_sd3_are_encoded_as_its_pipeline_does(t5: bool, tmp_path: Path) -> None:
    pipeline = write_sd3(tmp_path, t5)
    ours = known(tmp_path, "sd3-tokens")
    asked = [prompt for prompt in PROMPTS if "<" not in prompt]
    text, empty, pooled, no_pooled = pipeline.encode_prompt(asked, None, None, "cpu")
    tokens = ours.encode(asked)
    made = ours.embed(tokens)
    assert ours.width == 64 and made.shape == (4, 1 + 16 + 256, 64)
    torch.testing.assert_close(made[:, 1:], text, **CLOSE)
    torch.testing.assert_close(made[:, 0], pooled, **CLOSE)
    torch.testing.assert_close(ours.vectors(tokens), torch.nn.functional.normalize(pooled, dim=1), **CLOSE)
    assert_computed_together(ours, tokens)
    assert ours.unconditional is not None
    none = ours.embed(ours.unconditional[None])
    torch.testing.assert_close(none[0], torch.cat([no_pooled[:1], empty[0]]), **CLOSE)


@pytest.mark.parametrize("zeros", [False, True])
def test_the_prompts_of_sdxl_are_encoded_as_its_pipeline_does(zeros: bool, tmp_path: Path) -> None:
    pipeline = write_sdxl(tmp_path, zeros=zeros)
    ours = known(tmp_path, "sdxl-tokens")
    asked = [prompt for prompt in PROMPTS if "<" not in prompt]
    text, empty, pooled, no_pooled = pipeline.encode_prompt(asked, device="cpu")
    tokens = ours.encode(asked)
    made = ours.embed(tokens)
    assert ours.width == 80 and made.shape == (4, 1 + 16, 80) and not made[:, 0, 40:].any()
    torch.testing.assert_close(made[:, 1:], text, **CLOSE)
    torch.testing.assert_close(made[:, 0, :40], pooled, **CLOSE)
    torch.testing.assert_close(ours.vectors(tokens), torch.nn.functional.normalize(pooled, dim=1), **CLOSE)
    assert_computed_together(ours, tokens)
    assert ours.unconditional is not None
    none = ours.embed(ours.unconditional[None])[0]
    assert zeros == (not none.any())
    torch.testing.assert_close(none[1:], empty[0], **CLOSE)
    torch.testing.assert_close(none[0, :40], no_pooled[0], **CLOSE)
    both = ours.embed(torch.stack([ours.unconditional, tokens[0]]))
    assert torch.equal(both[0], none) and torch.equal(both[1], made[0])


def test_encoders_that_do_not_fit_their_unet_are_refused(tmp_path: Path) -> None:
    write_sdxl(tmp_path)
    for changes, message in (
        (
            {"projection_class_embeddings_input_dim": 80},
            "not fit its unet, which takes 80 numbers of each token and 32",
        ),
        ({"cross_attention_dim": 64}, "do not fit its unet, which takes 64 numbers of each token and 40 of a whole"),
        ({"addition_time_embed_dim": "wide"}, "has no unet: it takes 80 and 'wide' and 88 numbers"),
    ):
        kept = (tmp_path / "unet" / "config.json").read_text()
        change(tmp_path / "unet" / "config.json", **changes)
        with pytest.raises(UserError, match=message):
            _ = known(tmp_path, "sdxl-tokens").width
        (tmp_path / "unet" / "config.json").write_text(kept)


def test_a_row_and_a_place_depend_on_no_other_prompt_bit_for_bit(root: Path, pixart: Any) -> None:
    ours = known(root / "pixart", "t5-tokens")
    partition = fit(PartitionConfig(2, "kmeans"), ours)
    together = ours.embed(ours.encode(PROMPTS))
    assert all(torch.equal(ours.embed(ours.encode([text]))[0], together[i]) for i, text in enumerate(PROMPTS))
    assert [partition.place(ours, [text])[0] for text in PROMPTS] == partition.place(ours, list(PROMPTS))
    torch.testing.assert_close(ours.vectors(ours.encode(PROMPTS)).norm(dim=1), torch.ones(6))
    assert ours.encode([]).shape == (0, 120) and ours.embed(ours.encode([])).shape == (0, 120, 25)


def sharded(folder: Path) -> None:
    import transformers

    made = transformers.T5EncoderModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    made.save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def test_an_encoder_in_shards_is_read(tmp_path: Path) -> None:
    write_pixart(tmp_path)
    before = known(tmp_path, "t5-tokens").embed(known(tmp_path, "t5-tokens").encode(PROMPTS))
    (tmp_path / "shards").mkdir()
    for name in ("tokenizer", "text_encoder", "model_index.json"):
        (tmp_path / name).rename(tmp_path / "shards" / name)
    sharded(tmp_path / "shards" / "text_encoder")
    after = known(tmp_path / "shards", "t5-tokens")
    assert len(after.fingerprint) > 16 and torch.equal(after.embed(after.encode(PROMPTS)), before)


def without_a_tensor(folder: Path) -> None:
    import transformers

    from msd_ray.networks.weights import to_chunks

    weights = dict(transformers.T5EncoderModel.from_pretrained(folder / "text_encoder").state_dict())
    del weights["encoder.embed_tokens.weight"], weights["encoder.final_layer_norm.weight"]
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"".join(to_chunks(weights)))


BAD = {
    "no tokenizer": (
        lambda f: (f / "tokenizer" / "tokenizer.json").rename(f / "tokenizer" / "spiece.model"),
        "tokenizer has no tokenizer.json; load it with transformers where sentencepiece is installed",
    ),
    "another class": (
        lambda f: change(f / "text_encoder" / "config.json", architectures=["CLIPTextModel"]),
        "has no T5EncoderModel as text_encoder, but CLIPTextModel",
    ),
    "enormous depth": (
        lambda f: change(f / "text_encoder" / "config.json", num_layers=10**9),
        "asks for 1000000000 as num_layers",
    ),
    "no width": (
        lambda f: change(f / "text_encoder" / "config.json", d_model=None),
        "asks for None as d_model",
    ),
    "more words": (
        lambda f: change(f / "tokenizer" / "tokenizer_config.json", extra_special_tokens=["<a>", "<b>"]),
        "text_encoder cannot be read: its tokenizer has 37 words, and it vectors for 35",
    ),
    "no end": (
        lambda f: change(f / "tokenizer" / "tokenizer_config.json", eos_token=None),
        "text_encoder cannot be read: ",
    ),
    "no encoder": (lambda f: (f / "text_encoder").rename(f / "elsewhere"), "has no text_encoder"),
    "only pickles": (
        lambda f: (f / "text_encoder" / "model.safetensors").rename(f / "text_encoder" / "pytorch_model.bin"),
        "text_encoder has no model.safetensors",
    ),
    "cut short": (
        lambda f: (f / "text_encoder" / "model.safetensors").write_bytes(b"\x08"),
        "text_encoder cannot be read",
    ),
    "a tensor less": (without_a_tensor, "cannot be read: its weights lack encoder.final_layer_norm.weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_encoder_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    damage, message = BAD[case]
    write_pixart(tmp_path)
    damage(tmp_path)
    ours = known(tmp_path, "t5-tokens")
    with pytest.raises(UserError) as refused:
        ours.embed(ours.encode(["red"]))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_clip_that_takes_texts_of_any_length_is_refused(tmp_path: Path) -> None:
    write_sd3(tmp_path, t5=False)
    change(tmp_path / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
    with pytest.raises(UserError, match=r"text_encoder has 16 places for 10{30} tokens of a text"):
        known(tmp_path, "sd3-tokens").encode(["red"])


@pytest.mark.parametrize(
    ("t5", "changes", "message"),
    [
        (False, {"joint_attention_dim": 48}, "do not fit its transformer, which takes 48 numbers of each token and 64"),
        (
            False,
            {"pooled_projection_dim": 32},
            "do not fit its transformer, which takes 64 numbers of each token and 32",
        ),
        (True, {"joint_attention_dim": 128}, "do not fit its transformer, which takes 128 numbers"),
        (False, {"joint_attention_dim": "wide"}, "has no transformer: it takes 'wide' and 64 numbers"),
        (False, {"pooled_projection_dim": 10**9}, "has no transformer: it takes 64 and 1000000000 numbers"),
    ],
)
def test_encoders_that_do_not_fit_their_transformer_are_refused(
    t5: bool, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_sd3(tmp_path, t5)
    change(tmp_path / "transformer" / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        _ = known(tmp_path, "sd3-tokens").width
