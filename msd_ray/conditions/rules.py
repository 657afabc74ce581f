"""Rules that give any prompt a part, also one that nobody trained on."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from msd_ray.errors import CorruptError

Vectors = NDArray[np.float64]


class Rule(Protocol):
    """A prompt belongs to the part where its cost is least. Costs follow from the prompt alone, bit for bit, whatever
    else is in the batch."""

    kind: ClassVar[str]
    compares: ClassVar[bool]
    """Whether costs follow from the vectors; otherwise from the texts alone."""

    @property
    def parts(self) -> int: ...

    def costs(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        """Of the texts, whose vectors are [B, d], with d = 0 where the rule does not compare them: [B, parts]."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Nearest:
    """The nearest centre. centres: [parts, d], float32. prices: what is added to the squared distance of each, so that
    parts are of like size."""

    kind: ClassVar[str] = "nearest"
    compares: ClassVar[bool] = True
    centres: NDArray[np.float32] = field(compare=False)
    prices: tuple[float, ...]

    @property
    def parts(self) -> int:
        return len(self.prices)

    def costs(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        # not as a matrix product, whose last bits depend on the size of the batch
        of_each = [np.square(vectors - centre).sum(axis=1) for centre in self.centres.astype(np.float64)]
        distances: Vectors = np.stack(of_each, axis=1) + np.array(self.prices)
        return distances

    def to_json(self) -> dict[str, Any]:
        centres = base64.b64encode(self.centres.astype("<f4").tobytes()).decode()
        return {"rule": self.kind, "centres": centres, "prices": list(self.prices)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Nearest":
        prices = tuple(float(price) for price in raw["prices"])
        centres = np.frombuffer(base64.b64decode(raw["centres"], validate=True), "<f4").reshape(len(prices), -1)
        if not (len(prices) and centres.size and np.isfinite(centres).all() and np.isfinite(prices).all()):
            raise ValueError("centres and prices must be finite")
        return cls(centres, prices)


@dataclass(frozen=True)
class Quadrants:
    """The signs of the vector's first two entries, as MSD divides prompts (arXiv 2410.23274). A cost is how far the
    prompt is from the quadrant."""

    kind: ClassVar[str] = "quadrants"
    compares: ClassVar[bool] = True
    parts = 4

    def costs(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        below, above = np.maximum(vectors[:, :2], 0), np.maximum(-vectors[:, :2], 0)
        sides = [below, above]
        return np.stack([sides[part % 2][:, 0] + sides[part // 2][:, 1] for part in range(self.parts)], axis=1)

    def to_json(self) -> dict[str, Any]:
        return {"rule": self.kind}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Quadrants":
        return cls()


@dataclass(frozen=True)
class Keywords:
    """The first part one of whose words the prompt has, whole and in upper or lower case; the last part has what is
    left. words: of each part but the last. A cost is 0 or 1."""

    kind: ClassVar[str] = "keywords"
    compares: ClassVar[bool] = False
    words: tuple[tuple[str, ...], ...] = ()

    @property
    def parts(self) -> int:
        return len(self.words) + 1

    def costs(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        costs = np.ones((len(texts), self.parts))
        for row, text in zip(costs, texts, strict=True):
            row[next((part for part, found in enumerate(self._patterns) if found.search(text)), self.parts - 1)] = 0
        return costs

    def to_json(self) -> dict[str, Any]:
        return {"rule": self.kind, "words": [list(words) for words in self.words]}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Keywords":
        return cls(tuple(tuple(str(word) for word in words) for words in raw["words"]))

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [any_of(words) for words in self.words]


def any_of(words: Sequence[str]) -> re.Pattern[str]:
    """Finds one of the words, whole and in upper or lower case."""
    return re.compile(rf"(?<!\w)({'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)


_RULES: dict[str, Any] = {rule.kind: rule for rule in (Nearest, Quadrants, Keywords)}


def rule_of(raw: Mapping[str, Any]) -> Rule:
    """The inverse of `to_json`. Raises CorruptError for anything else."""
    try:
        rule: Rule = _RULES[raw["rule"]].from_json(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"not a partition: its rule makes no sense ({type(error).__name__}: {error})") from None
    return rule
