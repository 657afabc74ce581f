"""The program of `helm test`: requests one image of each class from the service, over gRPC."""

import argparse
import sys
from pathlib import Path

from msd_ray.errors import UserError
from msd_ray.serving.client import Client, Connection, RefusedError


def call(connection: Connection, seconds: float) -> str:
    """Makes the calls; returns a line on the images. Raises RefusedError if the service refuses or does not answer."""
    with Client(connection) as client:
        labels = client.ensemble(seconds=seconds).versions[0].labels
        made = client.generate(list(range(len(labels))), seeds=[0] * len(labels), seconds=seconds)
    students = sorted({student for image in made for student in image.students})
    return f"{len(made)} images of {len(labels)} classes from {len(students)} students"


def first_token(text: str) -> str:
    """Of a file of tokens. Raises IndexError if it has none."""
    lines = [words for words in map(str.split, text.splitlines()) if words and not words[0].startswith("#")]
    return lines[0][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="HOST:PORT")
    parser.add_argument("--tokens", default="", help="a file with a bearer token per line")
    parser.add_argument("--ca", default="", help="PEM of who signed the service's certificate")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to try")
    said = parser.parse_args()
    try:
        token = first_token(Path(said.tokens).read_text()) if said.tokens else ""
        print(call(Connection(said.target, token=token, ca=said.ca), said.seconds))
    except (RefusedError, UserError, OSError, IndexError) as error:
        sys.exit(f"error: {error or 'the file of tokens is empty'}")


if __name__ == "__main__":
    main()
