"""What makes a vector of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Embedder(Protocol):
    """width: of the vectors that networks take. A text's tokens and its vectors depend on this text alone, bit for bit,
    whatever else is in the batch."""

    @property
    def width(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Changes with what it reads from files; empty where it reads none."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what networks take for one text; known without the weights of an encoder."""
        ...

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """What stands for the texts between processes: [B, ...]."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """The vectors that networks take, on the device of the tokens: [B, width], or [B, n, width] with one for each
        token."""
        ...

    def vectors(self, tokens: Tensor) -> Tensor:
        """Of whole texts, on the same device, [B, d], each of length 1: partitions compare texts by these."""
        ...

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What `embed` and `vectors` give, computed together."""
        ...

    @property
    def unconditional(self) -> Tensor | None:
        """The tokens of the empty text, [...], where that is what teachers are given for no text."""
        ...


@dataclass(frozen=True)
class HashedNgrams:
    """Counts of the groups of three to five letters inside of words, each group at a place and with a sign that its
    hash says, scaled to length 1: texts that share words are close. Nothing is trained. The tokens are the vector."""

    width: int
    fingerprint = ""
    unconditional = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.width,)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Groups of letters end at the ends of words, so a text's counts are the sum of its words': each different word
        is hashed once."""
        from scipy.sparse import csr_array  # here with scikit-learn, which is slow to import
        from sklearn.preprocessing import normalize

        words = [text.lower().split() for text in texts]
        number = {word: i for i, word in enumerate(dict.fromkeys(chain.from_iterable(words)))}
        if not number:
            return torch.zeros(len(texts), self.width)
        places = [number[word] for word in chain.from_iterable(words)]
        ends = np.cumsum([0, *map(len, words)])
        shape = len(texts), len(number)
        which = csr_array((np.ones(len(places), np.float32), np.array(places), ends), shape=shape)
        counts = which @ self._hashing.transform(number)
        return torch.from_numpy(normalize(counts, copy=False).toarray())

    def embed(self, tokens: Tensor) -> Tensor:
        return tokens

    def vectors(self, tokens: Tensor) -> Tensor:
        return tokens

    def both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, tokens

    @cached_property
    def _hashing(self) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer

        how = {"analyzer": "char_wb", "ngram_range": (3, 5), "lowercase": False}
        return HashingVectorizer(**how, n_features=self.width, norm=None, dtype=np.float32)
