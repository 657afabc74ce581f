"""The files of the Helm chart that are generated from its values: `python -m msd_ray.kubernetes.chart helm/msd-ray`
writes them again."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from msd_ray.kubernetes.cluster_values import WorkerGroup
from msd_ray.kubernetes.values import ChartValues
from msd_ray.kubernetes.values_schema import values_schema

HEADER = "# Made from msd_ray/kubernetes/values.py by `make chart`; values.schema.json refuses other keys.\n"


def schema() -> str:
    """values.schema.json."""
    return json.dumps(values_schema(), indent=1) + "\n"


def values() -> str:
    """values.yaml: the defaults, each with its description."""
    return HEADER + "".join(_documented(ChartValues(), 0))


def table() -> str:
    """All values as a Markdown table."""
    rows = ["| key | default | |", "| --- | --- | --- |"]
    for key, default, description in _leaves(ChartValues(), ""):
        rows.append(f"| `{key}` | `{json.dumps(default)}` | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def files(chart: Path) -> dict[str, str]:
    """The generated files of the chart's folder, by name. README.md keeps its text before the table."""
    return {
        "values.schema.json": schema(),
        "values.yaml": values(),
        "files/worker-group.json": json.dumps(_plain(WorkerGroup()), indent=1) + "\n",
        "README.md": (chart / "README.md").read_text().partition("| key |")[0] + table(),
    }


def _documented(model: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value, description in _fields(model):
        yield f"{indent}# {description}\n"
        if isinstance(value, BaseModel):
            yield f"{indent}{key}:\n"
            yield from _documented(value, depth + 1)
        else:
            yield from (f"{indent}{line}\n" for line in _plain_yaml({key: _plain(value)}))


def _plain_yaml(value: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(value, sort_keys=False, width=1000).splitlines()


def _leaves(model: BaseModel, prefix: str) -> Iterator[tuple[str, Any, str]]:
    for key, value, description in _fields(model):
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value), description
        if isinstance(value, dict):
            for each in value.values():
                if isinstance(each, BaseModel):
                    yield from _leaves(each, f"{prefix}{key}.NAME.")


def _fields(model: BaseModel) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(model).model_fields.items():
        yield str(field.alias), getattr(model, name), str(field.description)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, content in files(folder).items():
        (folder / name).write_text(content)
