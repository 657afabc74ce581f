"""Only the codecs, the networks and the readers of files ask how many channels or dimensions a sample has."""

import ast
from collections.abc import Iterator
from pathlib import Path

import msd_ray

ROOT = Path(msd_ray.__file__).parent
MAY = ("codecs", "networks", "data", "serving/generated")
"""Folders. What is in `data` reads files, whose shapes it checks."""
OF_SOMETHING_ELSE = {
    "cluster/pool/batching.py": "whether a request has several samples",
    "conditions/fit.py": "the features of classes",
    "conditions/picture_prompt.py": "a picture that is a prompt",
    "conditions/prompts.py": "a picture that is a prompt",
    "evaluation/reference.py": "the mean and covariance of features",
    "objectives/discriminators.py": "the features of a network",
    "training/precision.py": "the features between the blocks of a network",
}
"""Files that ask about the dimensions of something else."""
ASKING = (ast.Compare, ast.Match)


def asks(node: ast.AST) -> bool:
    """Whether it is `x.ndim`, `x.dim()`, `len(x.shape)`, `len(sample_shape)` or an element of `sample_shape`."""
    if isinstance(node, ast.Attribute):
        return node.attr == "ndim"
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        of_dim = isinstance(node.func, ast.Attribute) and node.func.attr == "dim" and not node.args
        return of_dim or (name == "len" and _is_shape(node.args[0]))
    return isinstance(node, ast.Subscript) and _is_shape(node.value) and isinstance(node.slice, ast.Constant)


def _is_shape(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.endswith("shape") and not name.startswith("feature")


def found(source: str) -> Iterator[int]:
    """The lines that compare what `asks`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ASKING) and any(asks(inner) for inner in ast.walk(node)):
            yield node.lineno


def test_nobody_else_asks_how_many_channels_a_sample_has() -> None:
    files = {file.relative_to(ROOT).as_posix(): file for file in ROOT.rglob("*.py")}
    asking = {name for name, file in files.items() if not name.startswith(MAY) and list(found(file.read_text()))}
    assert asking == set(OF_SOMETHING_ELSE)


def test_what_asks_is_found() -> None:
    for source in (
        "len(spec.sample_shape) == 3",
        "x.ndim != 4",
        "x.shape[1] in (1, 3)",
        "1 < a.dim()",
        "len(shape) == 1",
    ):
        assert list(found(source)) == [1], source
    for source in ("len(x) == 3", "x.shape == y.shape", "math.prod(sample_shape) > 3", "len(feature_shape) == 1"):
        assert not list(found(source)), source
