"""Does a change of structure keep the bits? Trains every shipped recipe at an old commit and in this checkout, on this
machine and in this environment, and compares the sha256 of every tensor: teacher, students' checkpoints, ensembles.

    python benchmarks/same_weights.py OLD [--recipes digits toy2d ...] [--quick]

OLD is checked out into a temporary folder. Both sides train at the same time, through `msd-ray train`, each with a Ray
cluster and a cache of its own. The recipes are shortened (same_weights_side.py): a teacher of 8 updates, two students,
stages of 4 updates with a checkpoint after 2. Each side reads its own recipes and is given the overrides whose keys it
knows. `digits-shared` is a student that two workers train together, under Ray Train.

Tensors are compared by name, dtype, shape and bytes. Exits with 1 where one differs or is missing on one side. The last
line of standard output is one JSON object.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import finish, say

HERE = Path(__file__).parents[1]
TWO_STUDENTS = ["partition.k=2"]
OTHERWISE = {
    "digits-o2mkd": ["partition.timesteps=2"],  # its students divide the noise levels, not the conditions
    "digits-small": [*TWO_STUDENTS, "stages.tsm.shared=false"],  # as before stages could be shared
}
VARIANTS = {
    "digits-shared": ("digits", ["partition.k=1", "training.shards=2", "cluster.workers_per_student=[2, 2]"]),
}
Weights = dict[str, dict[str, list[Any]]]


class Side:
    """A process that trains with the code in one folder."""

    def __init__(self, code: Path, folder: Path) -> None:
        self.code, self._folder = code, folder
        script = Path(__file__).with_name("same_weights_side.py")
        env = os.environ | {
            "PYTHONPATH": str(code),
            "MSD_RAY_CACHE": str(folder / "cache"),
            "RAY_TMPDIR": str(folder),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the cluster stays on 127.0.0.1
        }
        env.pop("RAY_ADDRESS", None)
        pipe = subprocess.PIPE
        with open(self._said, "w") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(script)], env=env, cwd=folder, stdin=pipe, stdout=pipe, stderr=said, text=True
            )

    def begin(self, name: str) -> None:
        """Has it train a recipe, or a variant of one."""
        recipe, overrides = VARIANTS.get(name, (name, OTHERWISE.get(name, TWO_STUDENTS)))
        asked = {"recipe": recipe, "overrides": overrides, "run_dir": str(self._folder / name)}
        assert self._process.stdin
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What came of the recipe that it was asked for. Raises RuntimeError where it could not be trained."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in found:
            raise RuntimeError(f"{self.code}: {found['error']}\n{self._said.read_text()[-2000:]}")
        return found

    def close(self, now: bool = False) -> None:
        """now: also in the middle of a recipe. Ray ends its processes in either case."""
        assert self._process.stdin
        self._process.stdin.close()
        if now:
            self._process.terminate()
        self._process.wait(60)

    @property
    def _said(self) -> Path:
        return self._folder / "said"


@contextmanager
def side(code: Path) -> Iterator[Side]:
    """It ends with this block, and what it wrote goes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = Side(code, Path(folder))
        try:
            yield made
        except BaseException:
            made.close(now=True)
            raise
        made.close()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The commit's files, in a worktree that is removed afterwards."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        tree = Path(folder) / "old"
        git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def recipes_in(code: Path) -> list[str]:
    """All that are shipped and need no files of others, and the variants of these."""
    shipped = sorted(path.stem for path in (code / "msd_ray/recipes").glob("*.yaml"))
    return [*(name for name in shipped if name.startswith(("digits", "toy2d"))), *VARIANTS]


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def differences(old: Weights, new: Weights) -> list[str]:
    """What is not the same on both sides, by file and tensor."""
    flat_old, flat_new = (
        {f"{file}: {name}": value for file, tensors in weights.items() for name, value in tensors.items()}
        for weights in (old, new)
    )
    return sorted(key for key in flat_old.keys() | flat_new.keys() if flat_old.get(key) != flat_new.get(key))


def compared(name: str, old: Side, new: Side) -> dict[str, Any]:
    """One row of the table."""
    for each in (old, new):
        each.begin(name)
    found = [each.answer() for each in (old, new)]
    for each, answer in zip((old, new), found, strict=True):
        if answer["unknown"]:
            say(f"  {each.code} does not know {', '.join(answer['unknown'])}: left out there")
    weights = [answer["weights"] for answer in found]
    return {
        "tensors": [sum(map(len, side_weights.values())) for side_weights in weights],
        "differ": differences(*weights),
        "seconds": [round(answer["seconds"], 1) for answer in found],
    }


def show(name: str, row: dict[str, Any]) -> None:
    """A row of the table, and where its sides differ first."""
    verdict = f"{len(row['differ'])} DIFFER" if row["differ"] else "equal"
    tensors, seconds = ("/".join(map(str, dict.fromkeys(row[key]))) for key in ("tensors", "seconds"))
    say(f"{name:<20} {tensors:>9} tensors  {verdict:<12} {seconds:>12} s")
    for key in row["differ"][:3]:
        say(f"  {key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="a commit")
    parser.add_argument("--recipes", nargs="+", default=recipes_in(HERE), choices=recipes_in(HERE), help="these only")
    parser.add_argument("--quick", action="store_true", help="toy2d only")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left of what it made
    try:
        commit = git("rev-parse", "--verify", f"{args.old}^{{commit}}")
    except subprocess.CalledProcessError:
        parser.error(f"there is no commit {args.old} here: give one that `git log` shows")
    with ExitStack() as stack:
        old, new = (stack.enter_context(side(code)) for code in (stack.enter_context(checked_out(commit)), HERE))
        rows = {}
        for name in ["toy2d"] if args.quick else args.recipes:
            if name not in recipes_in(old.code):
                say(f"{name:<20} is not there at {args.old}: not compared")
                continue
            rows[name] = compared(name, old, new)
            show(name, rows[name])
    finish("same_weights", {"old": commit, "new": git("describe", "--always", "--dirty"), "recipes": rows})
    sys.exit(1 if any(row["differ"] for row in rows.values()) else 0)


if __name__ == "__main__":
    main()
