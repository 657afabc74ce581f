"""Writes updates.json anew, for a change of numbers that is meant: `python -m tests.golden.write_updates`.

What must be said of it, and where, stands in test_updates.py.
"""

import json
from collections.abc import Callable
from typing import Any

import torch

from .updates import FILE, all_cases, numbers_of


def main() -> None:
    torch.set_num_threads(1)
    found = {name: numbers_of(name) for name in all_cases()}
    FILE.write_text(_lines(found, lambda numbers: _lines(numbers, json.dumps)) + "\n")
    print(f"{FILE}: {len(found)} cases")


def _lines(items: dict[str, Any], shown: Callable[[Any], str]) -> str:
    """JSON with a line for each item, so that a difference shows which numbers changed."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {shown(value)}" for key, value in items.items()) + "\n}"


if __name__ == "__main__":
    main()
