"""Descriptions of clusters: what a file may say, and what is told of one that says something else."""

from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.runs.nodes import NodeKind, read_cluster, this_machine

SHIPPED = Path(__file__).parents[2] / "examples" / "nodes.yaml"


def described(folder: Path, text: str) -> str:
    file = folder / "nodes.yaml"
    file.write_text(text)
    return str(file)


def test_kinds_stand_for_as_many_nodes(tmp_path: Path) -> None:
    text = "nodes:\n- {name: a100, count: 2, gpus: 4, cpus: 64, speed: 3, price: 2.5, leaves_hours: 12}\n- {name: b}\n"
    nodes = read_cluster(described(tmp_path, text)).each()
    first = NodeKind("a100-0", cpus=64, gpus=4, speed=3, price=2.5, leaves_hours=12)
    assert nodes[0] == first
    assert [n.name for n in nodes] == ["a100-0", "a100-1", "b"]
    assert nodes[2] == NodeKind("b")


def test_the_example_can_be_read() -> None:
    assert len(read_cluster(str(SHIPPED)).each()) > 1


def test_this_machine_is_one_node() -> None:
    (node,) = this_machine().each()
    assert node.cpus >= 1


def test_the_hours_that_a_node_is_there() -> None:
    node = NodeKind("a", joins_hours=2.0, leaves_hours=5.0)
    assert [node.hours_until(end) for end in (1.0, 3.0, 9.0)] == [0.0, 1.0, 3.0]
    assert NodeKind("a").hours_until(9.0) == 9.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [{name: a, gpu: 4}]", "unknown key nodes.0.gpu; did you mean nodes.0.gpus?"),
        ("nodes: [{name: a}, {name: b, pirce: 1}]", "unknown key nodes.1.pirce; did you mean nodes.1.price?"),
        ("node: [{name: a}]", "unknown key node; did you mean nodes?"),
        ("nodes: [{name: a, cpus: many}]", "nodes.0.cpus: input should be a valid number, not 'many'"),
        ("nodes: [{name: a, count: 1.5}]", "nodes.0.count"),
        ("nodes: [{name: a, count: 0}]", "nodes.0.count: input should be greater than or equal to 1, not 0"),
        ("nodes: [{name: a, speed: 0}]", "nodes.0.speed: input should be greater than 0, not 0"),
        ("nodes: [{name: a, price: -1}]", "nodes.0.price: input should be greater than or equal to 0, not -1"),
        ("nodes: [{name: a, joins_hours: 2, leaves_hours: 1}]", "leaves_hours (1) must be above joins_hours (2)"),
        ("nodes: [{name: a, cpus: .inf}]", "nodes.0.cpus: must be a finite number, not inf"),
        ("nodes: [{cpus: 4}]", "nodes.0.name: field required"),
        ("nodes: [{name: a}, {name: a}]", "two nodes are called 'a'"),
        ("nodes: []", "nodes must list at least one"),
        ("nodes: 4", "nodes"),
        ("nodes: [4]", "nodes.0"),
        ("{}", "nodes"),
        ("- 1", "must hold a mapping"),
        ("nodes: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    file = described(tmp_path, text)
    with pytest.raises(UserError) as told:
        read_cluster(file)
    assert message in str(told.value)
    assert str(told.value).startswith(file)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*nowhere\.yaml: give a YAML file that lists `nodes`"):
        read_cluster(str(tmp_path / "nowhere.yaml"))
