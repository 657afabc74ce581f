"""A tokenizer and a text encoder in the directory of a pipeline, as transformers keeps them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from msd_ray.errors import UserError, one_line
from msd_ray.extras import needed

WIDEST = 8192
_AT = "conditions.options.encoder"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TOKENIZERS = {
    "CLIPTextModel": ("CLIPTokenizer", ("tokenizer.json", "vocab.json")),
    "CLIPTextModelWithProjection": ("CLIPTokenizer", ("tokenizer.json", "vocab.json")),
    "T5EncoderModel": ("T5Tokenizer", ("tokenizer.json",)),
}
"""Of each class of encoder: the class of its tokenizer, and files of which it must have one. Without any, transformers
would make a vocabulary of its own; of a `spiece.model` it reads nothing where sentencepiece is not installed."""
_MOST = {
    "hidden_size": WIDEST,
    "d_model": WIDEST,
    "projection_dim": WIDEST,
    "num_hidden_layers": 256,
    "num_layers": 256,
    "num_heads": 1024,
    "d_kv": 1024,
    "vocab_size": 10**6,
    "max_position_embeddings": 10**5,
    "intermediate_size": 10**5,
    "d_ff": 10**5,
}
_UNSAID, _LONGEST = 512, 4096
"""The width that transformers takes where a config.json says none; the most tokens of a text."""


@dataclass(frozen=True)
class EncoderFiles:
    """root: the directory. kind: the class of its encoder. number: behind `tokenizer` and `text_encoder` in their
    names, such as "_2". What is read raises UserError, in one line, where it is not as it should be."""

    root: str
    kind: Literal["CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"]
    number: str = ""

    @property
    def width(self) -> int:
        """Of a token's vector."""
        width: int = self._config.get("d_model" if self.kind == "T5EncoderModel" else "hidden_size", _UNSAID)
        return width

    @property
    def pooled(self) -> int:
        """The width of a whole text's vector, where it is projected."""
        pooled: int = self._config.get("projection_dim", _UNSAID)
        return pooled

    @cached_property
    def length(self) -> int:
        """How many tokens of a text it takes."""
        return self._placed(_tokenizer(self).model_max_length)

    @cached_property
    def fingerprint(self) -> str:
        """Of its weights."""
        digest = hashlib.blake2b(digest_size=8)
        for file in self._weights:
            with open(file, "rb") as opened:
                while chunk := opened.read(1 << 24):
                    digest.update(chunk)
        return digest.hexdigest()

    def tokens(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """Their numbers in its vocabulary, cut or padded to `length`, or else to as many as it takes: [B, length]."""
        most = self._placed(length) if length else self.length
        if not texts:
            return torch.zeros(0, most, dtype=torch.long)
        made = _tokenizer(self)(
            list(texts), padding="max_length", max_length=most, truncation=True, return_tensors="pt"
        )
        ids: Tensor = made.input_ids
        return ids

    def open(self, device: torch.device) -> tuple[Any, Any]:
        """Tokenizer and model, once in a process. Executes nothing that lies there."""
        return _opened(self, device)

    def _placed(self, length: int) -> int:
        places: int = self._config.get("max_position_embeddings", _LONGEST)
        if not 0 < length <= places:
            raise UserError(f"{_AT}: {self.encoder} has {places} places for {length} tokens of a text")
        return length

    @property
    def encoder(self) -> Path:
        """Of the encoder."""
        return Path(self.root) / f"text_encoder{self.number}"

    @property
    def tokenizer(self) -> Path:
        """Of the tokenizer, which has what transformers reads."""
        folder, (_, names) = Path(self.root) / f"tokenizer{self.number}", _TOKENIZERS[self.kind]
        if any((folder / name).is_file() for name in names):
            return folder
        how = "; load it with transformers where sentencepiece is installed, and save it with save_pretrained"
        only = (folder / "spiece.model").is_file()
        raise UserError(f"{_AT}: {folder} has no {' or '.join(names)}{how if only else ''}")

    @cached_property
    def _config(self) -> dict[str, Any]:
        name = self.encoder.name
        try:
            config = json.loads((self.encoder / "config.json").read_text(encoding="utf-8"))
            kinds = list(config["architectures"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{_AT}: {self.root} has no {name}: {one_line(error)}") from None
        if kinds != [self.kind]:
            raise UserError(f"{_AT}: {self.root} has no {self.kind} as {name}, but {', '.join(map(str, kinds))}")
        for key, most in _MOST.items():
            if not (type(value := config.get(key, 1)) is int and 0 < value <= most):
                raise UserError(f"{_AT}: {self.encoder / 'config.json'} asks for {value!r} as {key}")
        checked: dict[str, Any] = config
        return checked

    @property
    def _weights(self) -> list[Path]:
        """Its files, of an encoder that may be opened."""
        assert self._config
        if (self.encoder / _WEIGHTS).is_file():
            return [self.encoder / _WEIGHTS]
        try:
            index = json.loads((self.encoder / _INDEX).read_text(encoding="utf-8"))
            names = sorted({str(name) for name in index["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            names = []
        if not names or not all("/" not in name and (self.encoder / name).is_file() for name in names):
            raise UserError(f"{_AT}: {self.encoder} has no {_WEIGHTS}")
        return [self.encoder / name for name in names]


def taken_by(root: str, network: str, **usual: int) -> list[int]:
    """How many numbers of each kind the network in a pipeline's directory takes. network: its folder. usual: by the
    keys of its config.json, what diffusers takes where that says nothing. Raises UserError where it has none."""
    try:
        config = json.loads((Path(root) / network / "config.json").read_text(encoding="utf-8"))
        taken = [config.get(key, value) for key, value in usual.items()]
        if not all(type(number) is int and 0 < number <= WIDEST for number in taken):
            raise ValueError(f"it takes {' and '.join(map(repr, taken))} numbers")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{_AT}: {root} has no {network}: {one_line(error)}") from None
    return taken


@lru_cache(maxsize=6)
def _tokenizer(files: EncoderFiles) -> Any:
    transformers, (name, _) = needed("transformers", "hf"), _TOKENIZERS[files.kind]
    assert files._weights
    with _readable(files):
        tokenizer = getattr(transformers, name).from_pretrained(files.tokenizer, local_files_only=True)
        if tokenizer.eos_token_id is None:
            raise ValueError("its tokenizer has no token for the end of a text")
    return tokenizer


@lru_cache(maxsize=6)
def _opened(files: EncoderFiles, device: torch.device) -> tuple[Any, Any]:
    transformers, tokenizer = needed("transformers", "hf"), _tokenizer(files)
    with _readable(files):
        model, info = getattr(transformers, files.kind).from_pretrained(
            files.encoder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        if info["missing_keys"]:
            raise ValueError(f"its weights lack {min(info['missing_keys'])}")
        if (words := len(tokenizer)) > (known := model.get_input_embeddings().num_embeddings):
            raise ValueError(f"its tokenizer has {words} words, and it vectors for {known}")
    return tokenizer, model.float().eval().requires_grad_(False).to(device)


@contextmanager
def _readable(files: EncoderFiles) -> Iterator[None]:
    """Raises UserError for whatever transformers raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_AT}: {files.encoder} cannot be read: {one_line(error)}") from None


@torch.no_grad()
def each_alone(tokens: Tensor, made: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """What `made` makes of each text by itself, of tokens [1, n], equal ones computed once: [B, *shape]. In a batch its
    last bits would depend on the others."""
    if not len(tokens):
        return torch.zeros(0, *shape, device=tokens.device)
    different, of_each = torch.unique(tokens, dim=0, return_inverse=True)
    return torch.cat([made(one[None]) for one in different])[of_each]
