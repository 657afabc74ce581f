"""What a condition is, only msd_ray/conditions and the networks know: no other room computes with one."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "msd_ray"
ROOMS = ("conditions", "networks", "data")  # data sets bring the ids along
NAMES = {"condition", "conditions", "class_id", "class_ids", "classes", "ids", "labels"}


def computed(source: str) -> Iterator[str]:
    """The expressions that calculate with a condition, look something up by it, or count up to one."""
    for node in ast.walk(ast.parse(source)):
        used: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr):  # which joins types
            used = [node.left, node.right]
        elif isinstance(node, ast.Subscript):
            used = [node.slice]
        elif isinstance(node, ast.Call) and _name(node.func) in ("range", "arange"):
            used = node.args
        if any(_name(part) in NAMES for part in used):
            yield ast.unparse(node)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def test_what_computes_with_a_condition_is_seen() -> None:
    code = "a = i % data.classes; b = owners[condition]; c = torch.arange(classes); d = condition | None; e = ids[0]"
    assert list(computed(code)) == ["i % data.classes", "owners[condition]", "torch.arange(classes)"]


def test_no_other_room_computes_with_a_condition() -> None:
    files = [p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in ROOMS]
    found = {f"{p.relative_to(PACKAGE)}: {what}" for p in files for what in computed(p.read_text())}
    assert found == {
        "evaluation/scores.py: range(classes)",  # the mean features of each, which partitions are fitted to
        "serving/service/versions.py: self.owners[condition]",  # routing, without a tensor for each request
        "serving/service/withhold.py: version.labels[item.class_id]",  # what an operator's function is told
    }
