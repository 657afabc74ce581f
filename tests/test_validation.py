"""That the nearest key is named wherever the misspelt one stands."""

from dataclasses import dataclass, field

import pytest

from msd_ray.validation import made_of


@dataclass(frozen=True)
class Leaf:
    width: int = 1


@dataclass(frozen=True)
class Tree:
    leaf: Leaf = Leaf()
    maybe: Leaf | None = None
    several: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = field(default_factory=dict)
    free: dict[str, object] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"lef": {}}, "unknown key at.lef; did you mean at.leaf?"),
        ({"leaf": {"wide": 1}}, "unknown key at.leaf.wide; did you mean at.leaf.width?"),
        ({"maybe": {"wide": 1}}, "unknown key at.maybe.wide; did you mean at.maybe.width?"),
        ({"several": [{}, {"wide": 1}]}, "unknown key at.several.1.wide; did you mean at.several.1.width?"),
        (
            {"by_name": {"width": {"wide": 1}}},
            "unknown key at.by_name.width.wide; did you mean at.by_name.width.width?",
        ),
        ({"leaf": {"width": "x"}, "lef": {}}, "unknown key at.lef; did you mean at.leaf?"),
        ({"leaf": {"width": "x"}}, "at.leaf.width: input should be a valid integer, not 'x'"),
        ({"leaf": {"width": [1]}}, "at.leaf.width: input should be a valid integer, not [1]"),
        ({"leaf": {"width": float("nan")}}, "at.leaf.width: input should be a valid integer, not nan"),
    ],
)
def test_what_is_wrong_is_told(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="at") as told:
        made_of(Tree, raw, "at")
    assert str(told.value) == message


def test_a_mapping_of_no_class_takes_any_key() -> None:
    assert made_of(Tree, {"free": {"lef": [1, {"x": None}]}}).free == {"lef": [1, {"x": None}]}
