"""The text encoder of a tiny Stable Diffusion directory as an embedder."""

import json
from pathlib import Path

import pytest
import torch

from msd_ray.conditions import Conditions, ConditionsConfig, PartitionConfig, fit, make_conditions
from msd_ray.conditions.kinds import identity
from msd_ray.errors import UserError
from msd_ray.recipes import load_recipe

transformers = pytest.importorskip("transformers")
PROMPTS = tuple(f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("heart", "car", "house"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Stable Diffusion has them: `tokenizer` and `text_encoder`."""
    root = tmp_path_factory.mktemp("pipeline")
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (root / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (root / "merges.txt").write_text("#version: 0.2\n")
    files = {"vocab": str(root / "vocab.json"), "merges": str(root / "merges.txt")}
    tokenizer = transformers.CLIPTokenizer(**files, model_max_length=16)
    tokenizer.save_pretrained(root / "tokenizer")
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.CLIPTextModel(config).save_pretrained(root / "text_encoder")
    return root


def prompts(directory: Path) -> Conditions:
    return make_conditions(ConditionsConfig("prompts", {"embedder": "clip", "encoder": str(directory)}), PROMPTS)


def test_tokens_are_its_vocabulary_and_vectors_its_pooled_output(directory: Path) -> None:
    known = prompts(directory)
    tokens = known.encode(["red heart", "blue car", "x" * 900])
    assert tokens.shape == (3, 16) and tokens.dtype == torch.int64 and known.width == 32
    model = transformers.CLIPTextModel.from_pretrained(directory / "text_encoder").eval()
    expected = torch.nn.functional.normalize(model(tokens).pooler_output, dim=1)
    torch.testing.assert_close(known.embed(tokens), expected, atol=1e-6, rtol=0)
    assert torch.equal(known.encode(torch.tensor([0])), tokens[:1])


def test_a_vector_and_a_place_depend_on_no_other_prompt_bit_for_bit(directory: Path) -> None:
    known = prompts(directory)
    partition, asked = fit(PartitionConfig(3, "kmeans"), known), ["a red car", "hearts", *PROMPTS, "???"]
    together = known.embed(known.encode(asked))
    assert all(torch.equal(known.embed(known.encode([text]))[0], together[i]) for i, text in enumerate(asked))
    assert [partition.place(known, [text])[0] for text in asked] == partition.place(known, asked)


@pytest.mark.parametrize("embedder", ["clip", "clip-tokens"])
def test_what_networks_take_and_rules_compare_is_computed_together(directory: Path, embedder: str) -> None:
    known = make_conditions(ConditionsConfig("prompts", {"embedder": embedder, "encoder": str(directory)}), PROMPTS)
    tokens = known.encode(["a red car", "hearts"])
    made, vectors = known.both(tokens)
    assert torch.equal(made, known.embed(tokens)) and torch.equal(vectors, known.vectors(tokens))
    assert made.shape[1:] == known.embedded_shape


def test_another_encoder_is_another_identity(directory: Path, tmp_path: Path) -> None:
    config = ConditionsConfig("prompts", {"embedder": "clip", "encoder": str(directory)})
    before = identity(config, lambda: PROMPTS)
    weights = directory / "text_encoder" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    changed = identity(config, lambda: PROMPTS)
    weights.write_bytes(kept)
    assert changed != before == identity(config, lambda: PROMPTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "{embedder: clip}",
            "encoder is the directory of the text encoder of clip, clip-tokens, sdxl-tokens, t5-tokens, sd3-tokens",
        ),
        (
            "{encoder: somewhere}",
            "encoder is the directory of the text encoder of clip, clip-tokens, sdxl-tokens, t5-tokens, sd3-tokens",
        ),
    ],
)
def test_a_recipe_says_both_or_neither(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("toy2d", [f"conditions={{kind: prompts, options: {options}}}"])


def test_a_directory_without_one_is_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no text_encoder"):
        _ = prompts(tmp_path).width
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    config = json.loads((directory / "text_encoder" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["SomethingElse"]}))
    with pytest.raises(UserError, match="has no CLIPTextModel as text_encoder, but SomethingElse"):
        _ = prompts(tmp_path).width
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"text_encoder has no model\.safetensors"):
        prompts(tmp_path).encode(["red"])
