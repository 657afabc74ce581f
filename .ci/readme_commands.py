"""Prints the shell commands of Markdown files, one per line: those in blocks fenced as ```sh, in order.

A line that ends in a backslash is joined with the next; comments and empty lines are left out.

    python3 .ci/readme_commands.py README.md [docs/training.md ...]
"""

import sys
from collections.abc import Iterator
from pathlib import Path


def commands(markdown: str) -> Iterator[str]:
    inside, begun = False, ""
    for line in map(str.strip, markdown.splitlines()):
        if line.startswith("```"):
            inside = line == "```sh"
        elif inside and line.endswith("\\"):
            begun += line[:-1].rstrip() + " "
        elif inside and line and not line.startswith("#"):
            yield begun + line
            begun = ""


if __name__ == "__main__":
    for document in sys.argv[1:]:
        for command in commands(Path(document).read_text(encoding="utf-8")):
            print(command)
