"""What damaged and hostile files do: nothing but a line."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from msd_ray.cli import main
from msd_ray.errors import UserError
from msd_ray.teachers.inspection import convert, inspect

from .hostile import files

BOMBS = [
    "a memo of 2^27",
    "a memo of 2^31",
    "3 GB of bytes claimed",
    "an array of 3 GB claimed",
    "a frame of 2^60",
    "a number of a million digits",
    "two million lists",
    "parts that share parts",
    "one tensor of many names",
    "a stride of 0",
    "a tensor beyond its storage",
    "a tensor of 2^80",
    "a storage that claims more",
    "a zip bomb",
    "a state dict that grows",
    "a state dict of stride 0",
    "a state dict that claims more",
]
READ_ALL = """
import resource, sys
from msd_ray.errors import UserError
from msd_ray.teachers.inspection import inspect
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        inspect(path, {"resolution": 16} if path.endswith(".pt") else {})
    except UserError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Each file, and a part of what is to be said of it."""
    folder = tmp_path_factory.mktemp("hostile")
    made = files(folder / "canary")
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
    return {folder / name: reason for name, (_, reason) in made.items()}


def said_of(path: Path) -> str:
    options = {"resolution": 16} if path.read_bytes()[:2] == b"PK" else {}
    with pytest.raises(UserError) as told:
        inspect(str(path), options)
    return str(told.value)


def test_each_is_refused_in_one_line_and_nothing_is_run(hostile: dict[Path, str]) -> None:
    assert len(hostile) >= 40
    wrong = {
        path.name: said
        for path, reason in hostile.items()
        if reason not in (said := said_of(path)) or str(path) not in said or "\n" in said
    }
    assert wrong == {}
    assert not (next(iter(hostile)).parent / "canary").exists()


def test_memory_is_bounded(hostile: dict[Path, str]) -> None:
    """In a process of its own, which may not even ask for 3 GB more than it has."""
    paths = [str(path) for path in hostile if path.name in BOMBS]
    assert len(paths) == len(BOMBS)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))

    ran = subprocess.run([sys.executable, "-c", READ_ALL, *paths], capture_output=True, text=True, preexec_fn=limit)
    *lines, grown = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert len(lines) == len(BOMBS)
    assert int(grown) < 400_000  # kilobytes; the largest of the files has 2 MB


def test_the_command_line_says_it_and_writes_nothing(
    hostile: dict[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(iter(hostile)).parent
    for command in (["inspect"], ["inspect", "--json"], ["convert", "-o", str(tmp_path / "out")]):
        monkeypatch.setattr(sys, "argv", ["msd-ray", "teacher", *command, str(folder / "os.system")])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, "")
        assert said.err.count("\n") == 1
        assert "which weights do not need; nothing was run" in said.err
    assert not (tmp_path / "out").exists()
    assert not (folder / "canary").exists()


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "mine.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="exists; choose another directory"):
        convert(str(tmp_path / "mine.pkl"), {}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.pkl"]
    with pytest.raises(UserError, match=r"has none of manifest\.json"):
        inspect(str(tmp_path), {})
    with pytest.raises(UserError, match="there is no file"):
        inspect(str(tmp_path / "other"), {})
