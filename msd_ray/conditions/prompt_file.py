"""Prompts in Parquet: a column `text`, and where some shall be drawn more often than others, `weight`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from msd_ray.errors import UserError, one_line
from msd_ray.storage import Store

CHUNK = 1 << 16
"""Texts that are held at a time where all are read."""


@dataclass(frozen=True)
class PromptTable:
    """texts: a tuple, or a column of Arrow, which takes a fraction of its memory. weights: [n], float64; None where all
    are drawn alike."""

    texts: Any
    weights: Tensor | None = None

    def take(self, ids: Sequence[int]) -> list[str]:
        """The texts of these ids."""
        return [self.texts[i] if isinstance(self.texts, tuple) else self.texts[i].as_py() for i in ids]

    @property
    def fingerprint(self) -> str:
        """Changes with any text or weight."""
        digest = hashlib.blake2b(digest_size=8)
        for first in range(0, len(self.texts), CHUNK):
            some = self.texts[first : first + CHUNK]
            digest.update("".join(map(repr, some if isinstance(some, tuple) else some.to_pylist())).encode())
        if self.weights is not None:
            digest.update(self.weights.numpy().tobytes())
        return digest.hexdigest()


def read_prompts(path: str) -> PromptTable:
    """Raises UserError where the file is none, or lacks a column."""
    import pyarrow as pa  # here, since most conditions are no prompts
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(_content(path)))
    except pa.ArrowException as error:
        raise UserError(f"conditions.options.file: {path} is no Parquet file ({one_line(error)})") from None
    if "text" not in table.column_names or not pa.types.is_string(table.schema.field("text").type):
        raise UserError(f"conditions.options.file: {path} has no column `text` of strings")
    if not len(table) or table["text"].null_count:
        raise UserError(f"conditions.options.file: {path} has no prompt, or a row without one")
    return PromptTable(
        table["text"].combine_chunks(), _weights(table, path) if "weight" in table.column_names else None
    )


def _weights(table: Any, path: str) -> Tensor:
    import pyarrow as pa

    try:
        weights = torch.from_numpy(table["weight"].cast(pa.float64()).to_numpy().copy())
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"conditions.options.file: {path}: the column `weight` must hold numbers ({error})") from None
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.sum() > 0):
        raise UserError(f"conditions.options.file: {path}: weights must be finite, not negative, and not all 0")
    return weights


def _content(path: str) -> bytes:
    folder, _, name = path.rpartition("/")
    try:
        return Store(folder or ".").read(name)
    except FileNotFoundError:
        raise UserError(f"conditions.options.file: there is no {path}") from None
