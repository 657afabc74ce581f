"""Wrong input of every kind: one line, exit code 2, nothing written. No test here starts Ray or trains."""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from msd_ray.cli import main
from msd_ray.ensemble import Ensemble
from msd_ray.recipes import load_recipe
from msd_ray.runs.run_directory import keep_recipe
from msd_ray.runs.run_status import RunStatus, StudentStatus, write_status
from msd_ray.storage import Store, default_cache, read_manifest, write_bundle

from ..serving.ensembles import POINTS, saved

TINY = str(Path(__file__).parents[1] / "faults" / "tiny.yaml")
SWEEP = {"name": "s", "recipe": TINY, "space": {"partition.k": [1, 2]}, "metrics": {"fid": "min"}}


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["msd-ray", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def state(folder: Path) -> dict[str, float]:
    """Everything below a folder, and when it was changed."""
    return {str(path): path.lstat().st_mtime for path in folder.rglob("*")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with files that make no sense."""
    monkeypatch.chdir(tmp_path)
    texts = {
        "self.yaml": "base: self.yaml\n",
        "a.yaml": "base: ./b.yaml\n",
        "b.yaml": "base: a.yaml\n",
        "ring.sweep.yaml": json.dumps({**SWEEP, "recipe": "self.yaml"}),
        "alias.yaml": "name: &a {b: *a}\n",
        "laughs.yaml": "name: x\n"
        + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}' if i else 'ha'] * 10)}]\n" for i in range(9)),
        "deep.yaml": "name: " + "[" * 3000 + "]" * 3000,
        "twice.yaml": "base: digits\nseed: 1\nseed: 2\n",
        "date.yaml": "keep: 2020-12-24\n",
        "nodate.yaml": "keep: 2020-13-45\n",
        "many.yaml": "nodes: [{name: a, count: 1000000000}]\n",
        "sum.yaml": "nodes: [{name: a, count: 9000}, {name: b, count: 9000}]\n",
        "list.yaml": "- 1\n",
        "inf.sweep.yaml": json.dumps({**SWEEP, "space": {"stages.dm.generator_lr": {"log": [1e-4, float("inf")]}}}),
        "nan.sweep.yaml": json.dumps({**SWEEP, "overrides": {"stages.dm.generator_lr": float("nan")}}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text.replace("Infinity", ".inf").replace("NaN", ".nan"))
    (tmp_path / "latin1.yaml").write_bytes("name: \xe9\n".encode("latin-1"))
    kept = {"list": "[]", "text": '"x"', "cut": '{"name"', "stages": '{"stages": []}', "nan": '{"seed": NaN}'}
    for name, text in kept.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(text)
    saved(tmp_path / "ensemble", k=2, spec=POINTS)
    saved(tmp_path / "two-steps", k=2, spec=POINTS, steps=2)
    (tmp_path / "sweep-journal").mkdir()
    (tmp_path / "sweep-journal" / "sweep.json").write_text(json.dumps(SWEEP))
    (tmp_path / "sweep-journal" / "journal.jsonl").write_text('[]\n3\n{"event": "trial", "trial": 0}\n')
    (tmp_path / "sweep-list").mkdir()
    (tmp_path / "sweep-list" / "sweep.json").write_text("[]")
    return tmp_path


EASY = ["partition.kind=sequential"]
ENDLESS = "nested too deeply, or too long: does an alias name itself?"
TABLE: list[tuple[list[str], str]] = [
    (["plan", "self.yaml"], "self.yaml: its base leads back to itself: self.yaml -> self.yaml"),
    (["train", "a.yaml"], "a.yaml: its base leads back to itself: a.yaml -> ./b.yaml -> a.yaml"),
    (["sweep", "ring.sweep.yaml"], "its base leads back to itself"),
    (["plan", "latin1.yaml"], "latin1.yaml is not text in UTF-8 (byte 7): save it as UTF-8"),
    (["train", "latin1.yaml"], "is not text in UTF-8"),
    (["sweep", "latin1.yaml"], "is not text in UTF-8"),
    (["plan", TINY, "--cluster", "latin1.yaml"], "is not text in UTF-8"),
    (["serve", "nowhere", "--config", "latin1.yaml"], "is not text in UTF-8"),
    (["plan", "alias.yaml"], f"alias.yaml is {ENDLESS}"),
    (["plan", "laughs.yaml"], f"laughs.yaml is {ENDLESS}"),
    (["plan", "deep.yaml"], "deep.yaml is n"),
    (["sweep", "alias.yaml"], ENDLESS),
    (["serve", "nowhere", "--config", "alias.yaml"], ENDLESS),
    (["plan", TINY, "--cluster", "alias.yaml"], ENDLESS),
    (["plan", "twice.yaml"], "twice.yaml is not YAML: the key 'seed' stands twice"),
    (["serve", "nowhere", "--config", "date.yaml"], "date.yaml: keep: 2020-12-24 is a date, not text or a number"),
    (["serve", "nowhere", "--config", "nodate.yaml"], "nodate.yaml is not YAML: month must be in 1..12"),
    (["serve", "nowhere", "students.cpus=.nan"], "students.cpus: must be a finite number, not nan"),
    (["serve", "nowhere", "--port", "-1"], "gateway.port: input should be greater than or equal to 0, not -1"),
    (["plan", TINY, "--cluster", "many.yaml"], "nodes.0.count: input should be less than or equal to 10000, not 1000"),
    (["plan", TINY, "--cluster", "sum.yaml"], "18,000 nodes are more than can be planned for: at most 10,000"),
    (["plan", TINY, "--cluster", "list.yaml"], "list.yaml must hold a mapping of keys to values"),
    (["plan", TINY, "seed=" + "9" * 5000], "is not a YAML value"),
    (["plan", TINY, "stages.dm.clip=-1"], "stages.dm.clip: input should be greater than or equal to 0, not -1"),
    (["train", TINY, "noise.sigma_max=.inf"], "noise.sigma_max: must be a finite number, not inf"),
    (["teacher", "train", TINY, "teacher.lr=-1"], "teacher.lr: input should be greater than 0, not -1"),
    (["sweep", "inf.sweep.yaml"], "space.stages.dm.generator_lr.log.1: must be a finite number, not inf"),
    (["sweep", "nan.sweep.yaml"], "overrides.stages.dm.generator_lr: must be a finite number, not nan"),
    (["plan", "x" * 300], "no recipe xxx"),
    (["plan", TINY, "stages.dm.objective=os:path"], "no objective 'os:path': what it names is not a dataclass"),
    (
        ["plan", "digits", "network.attention=[16, 4]"],
        "network.attention: this network has no level of 16 pixels, only of 8, 4; write network.attention=[4]",
    ),
    (["train", "digits", "network.attention=[5]"], "no level of 5 pixels, only of 8, 4; write network.attention=[]"),
    (["plan", "digits", "network.attention=[0]"], "network.attention.0: input should be greater than or equal to 1"),
    (["plan", "digits", "network.attention=[-4]"], "network.attention.0: input should be greater than or equal to 1"),
    (["generate", "ensemble", "--seeds", "0-99999999999"], "are more than one command makes: at most 1,000,000"),
    (["generate", "ensemble", "--seeds", "0-3000000"], "3,000,001 samples are more than one command makes"),
    (["generate", "ensemble", "--seeds", "0-200000"], "2,000,010 samples are more than one command makes"),
    (["generate", "ensemble", "--conditions", "0-99999999999"], "are more than one command makes"),
    (["generate", "ensemble", "--seeds", "9" * 23], "seeds must be from 0 to 9223372036854775807, not 999999999"),
    (["generate", "ensemble", "--seeds", "-5"], "seeds '-5' is not of the form 0-4,7"),
    (["generate", "ensemble", "--seeds", "9" * 5000], "is not of the form 0-4,7"),
    (["generate", "ensemble", "--steps", "0"], "there is no sampler or steps to choose"),
    (["generate", "two-steps", "--steps", "3"], "these students were trained for 2 steps: take 1 to 2, not 3"),
    (["generate", "two-steps", "--sampler", "ddim"], "make a sample in steps of their own: there is no sampler"),
    (["generate", "ensemble", "--seeds", "0", "-o", "/proc/nowhere/x.npy"], "cannot write /proc/nowhere"),
    (["generate", "ensemble", "--steps", "nan"], "Invalid value for '--steps'"),
    (
        ["sweep", "best", "nowhere", "--max-fid", "nan"],
        "Invalid value for '--max-fid'",
    ),
    (["sweep", "best", "nowhere", "--max-latency-ms", "-1"], "Invalid value for '--max-latency-ms'"),
    (["serve", "update", "nowhere", "--weight", "nan"], "Invalid value for '--weight'"),
    (["reproduce", "toy2d", "--seeds", "-1"], "Invalid value for '--seeds'"),
    (["reproduce", "toy2d", "-o", "/proc/nowhere"], "cannot write /proc/nowhere/write-test: No such file"),
    (["train", TINY, *EASY, "--run-dir", "/proc/nowhere/run"], "another place: give another --run-dir"),
    (["evaluate", "text"], "text/recipe.json is damaged"),
    (["status", "list"], "list holds no run that has begun to train"),
    (["evaluate", "nan"], "nan/recipe.json"),
    (["sweep", "best", "sweep-journal"], "sweep-journal/journal.jsonl is damaged (KeyError: 'choice'); restore it"),
    (["sweep", "best", "sweep-list"], "sweep-list/sweep.json is damaged"),
]


@pytest.mark.parametrize(("arguments", "message"), TABLE, ids=lambda value: " ".join(value)[:60])
def test_one_line_exit_code_2_and_nothing_written(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(here)
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert message in err
    assert (out, len(err.strip().splitlines())) == ("", 1)
    assert code == (1 if "damaged" in err else 2)
    assert len(err) < 600
    assert state(here) == before


@pytest.mark.parametrize("command", ["evaluate", "report", "train"])
@pytest.mark.parametrize("run_dir", ["list", "text", "cut", "stages"])
def test_a_recipe_that_is_none_is_called_damaged(
    command: str, run_dir: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", TINY, "partition.kind=sequential", "--run-dir", run_dir]
    code, _, err = run(capsys, monkeypatch, *(train if command == "train" else [command, run_dir]))
    advice = "delete it and run the same command again"
    assert (code, err) == (1, f"error: {here / run_dir}/recipe.json is damaged; {advice}\n")


RECIPE = ["data.classes=10", "partition.kind=sequential"]


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run directory as its driver leaves it: one of two students is trained."""
    store = Store(str(tmp_path / "run"))
    keep_recipe(store, load_recipe(TINY, RECIPE))
    students = [
        StudentStatus(f"student {i}", state, "dm", nimg, 2880, 10.0, 0.0, 0, 1.0)
        for i, (state, nimg) in enumerate([("done", 2880), ("training", 720)])
    ]
    write_status(store, RunStatus(time.time(), "host:1", False, 1, 10.0, 0.0, students))
    return tmp_path / "run"


@pytest.mark.parametrize("command", [["generate"], ["evaluate"], ["serve"], ["serve", "config"]])
def test_of_an_unfinished_run_it_is_said_how_far_it_is(
    command: list[str], unfinished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, *command, str(unfinished))
    begin = f"error: {unfinished} has no {'finished ensemble' if command == ['evaluate'] else 'ensemble yet'}: "
    said = "1 of 2 students are trained, on 62% of all images; `msd-ray train` with the same recipe goes on\n"
    assert (code, err) == (2, begin + said)
    (unfinished / "status.json").unlink()
    assert run(capsys, monkeypatch, *command, str(unfinished))[2] == (
        begin + "its training has not begun; run `msd-ray train`\n"
    )


def test_what_report_wrote_goes_to_standard_output(
    unfinished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, monkeypatch, "report", str(unfinished))
    assert (code, out.split()) == (0, [f"{unfinished}/metrics.parquet", f"{unfinished}/report.html"])
    assert err == "the run is not finished: the report shows its curves so far\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "student-0001.safetensors is damaged: it is missing; "),
        (lambda file: file.write_bytes(b"x"), "student-0001.safetensors is damaged: it has 1 bytes instead of "),
        (
            lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            "student-0001.safetensors is damaged: it is a pointer of git LFS, not the file itself; run `git lfs pull`",
        ),
    ],
)
@pytest.mark.parametrize("command", [["generate"], ["evaluate"], ["serve"], ["serve", "config"]])
def test_weights_that_are_not_there_are_missed_before_anything_is_done(
    command: list[str],
    damage: Callable[[Path], object],
    message: str,
    unfinished: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved(unfinished / "ensemble", k=2, spec=POINTS)
    damage(unfinished / "ensemble" / "student-0001.safetensors")
    code, out, err = run(capsys, monkeypatch, *command, str(unfinished))
    assert out == ""
    assert (code, len(err.splitlines())) == (2 if command == ["evaluate"] else 1, 1)
    assert message in err
    if "LFS" not in message:
        assert "`msd-ray train` with the same recipe makes the ensemble again" in err
    code, out, err = run(capsys, monkeypatch, *command, str(unfinished / "ensemble"))
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert message in err
    if "LFS" not in message:
        assert "restore this directory from a copy" in err


@pytest.fixture
def trapped(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run from somebody else, whose recipe names a module that must not be imported. Returns what it would leave."""
    trace = unfinished.parent / "imported"
    (unfinished.parent / "trap.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Method: ...\n")
    monkeypatch.syspath_prepend(str(unfinished.parent))
    recipe = json.loads((unfinished / "recipe.json").read_text())
    recipe["stages"]["adm"] |= {"objective": "trap:Method", "options": {"what": [1, {"ever": True}]}}
    (unfinished / "recipe.json").write_text(json.dumps(recipe))
    store = Store(saved(unfinished / "ensemble", k=2, spec=POINTS))
    manifest = read_manifest(store)
    for student in manifest.body["students"]:
        student["nimg"] = 2880
    write_bundle(store, {**manifest.body, "recipe": recipe}, [(name, store.read(name)) for name in manifest.files])
    return trace


@pytest.mark.parametrize(
    "command", [["evaluate", "run"], ["generate", "run"], ["report", "run"],
                ["status", "run"], ["serve", "config", "run"], ["generate", "run/ensemble", "--seeds", "0"]]
)  # fmt: skip
def test_commands_that_do_not_train_import_nothing_that_a_file_names(
    command: list[str], trapped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trapped.parent)
    code, _, err = run(capsys, monkeypatch, *command)
    assert (code, err) == (0, err) or "holds no teacher" in err, err
    assert not trapped.exists()


@pytest.mark.ray
def test_nor_does_the_evaluation_of_a_bare_ensemble(
    cluster: None, trapped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test_commands_that_do_not_train_import_nothing_that_a_file_names(
        ["evaluate", "run/ensemble"], trapped, capsys, monkeypatch
    )


def test_train_imports_what_the_user_names(
    trapped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, "train", f"{trapped.parent}/run/recipe.json", "--run-dir", "elsewhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no objective 'trap:Method': what it names is not a dataclass" in err
    assert trapped.exists()


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "MSD_RAY_CACHE"])
@pytest.mark.parametrize(
    "command",
    [
        ["teacher", "train", TINY, *EASY],
        ["train", TINY, *EASY],
        ["sweep", "quick.yaml"],
        ["evaluate", "ensemble"],
    ],
)
def test_a_cache_that_cannot_be_written_is_told_before_work_begins(
    command: list[str], name: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("MSD_RAY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "/proc/nohome")
    quick = {**SWEEP, "overrides": {"partition.kind": "sequential"}}
    (here / "quick.yaml").write_text(json.dumps(quick))
    recipe = load_recipe("digits").to_json()
    store = Store(str(here / "ensemble"))
    manifest = read_manifest(store)
    write_bundle(store, {**manifest.body, "recipe": recipe}, [(file, store.read(file)) for file in manifest.files])
    before = state(here)
    folder = {"HOME": "/.cache/msd_ray", "XDG_CACHE_HOME": "/msd_ray", "MSD_RAY_CACHE": ""}[name]
    code, out, err = run(capsys, monkeypatch, *command)
    advice = "repair it, or choose another place: set MSD_RAY_CACHE to a folder that can be written"
    said = f"cannot write /proc/nohome{folder}/write-test: No such file or directory; {advice}"
    assert (code, out, err) == (2, "", f"error: {said}\n")
    assert state(here) == before


def test_an_empty_cache_home_means_that_it_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSD_RAY_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache().uri == "/home/somebody/.cache/msd_ray"


def test_a_run_that_the_disk_has_no_room_for_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msd_ray.runs.disk_needs.free_bytes", lambda store: 1000)
    code, out, err = run(capsys, monkeypatch, "train", TINY, *EASY, "--run-dir", "run")
    assert (code, out) == (2, "")
    needs = (
        r"error: .*/run: the run needs about \d+ kB on disk, 1 kB are free; free some space, lower training.keep, or "
    )
    assert re.fullmatch(rf"{needs}give another --run-dir\n", err), err
    assert not (here / "run").exists()


def test_samples_that_do_not_fit_into_memory_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    code, out, err = run(capsys, monkeypatch, "generate", "ensemble", "--seeds", "0-9999", "-o", "x.npy")
    said = "error: 100,000 samples need 2.4 MB of memory, 1 MB are free; give several commands\n"
    assert (code, out, err) == (2, "", said)
    assert not (here / "x.npy").exists()


def test_fewer_steps_than_were_trained(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (1, 2):
        asked = ["generate", "two-steps", "--seeds", "0-2", "-o", "x.npy", "--json", "--steps", str(steps)]
        code, out, _ = run(capsys, monkeypatch, *asked)
        assert (code, json.loads(out)["nfe"]) == (0, steps)
        expected = Ensemble.load("two-steps").generate(
            [c for c in range(10) for _ in range(3)], [0, 1, 2] * 10, 0, None, steps
        )
        assert np.array_equal(np.load("x.npy").reshape(30, 2), expected.numpy())


def test_many_samples_come_with_progress_and_are_those_that_few_are(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msd_ray.runs.generate.PORTION", 7)
    monkeypatch.setattr("msd_ray.runs.generate.SAY_EVERY", -1.0)
    code, _, err = run(capsys, monkeypatch, "generate", "ensemble", "--seeds", "3-5", "-o", "x.npy")
    assert code == 0
    assert [line.partition(" samples")[0] for line in err.splitlines()] == [f"{n} of 30" for n in (7, 14, 21, 28)]
    expected = Ensemble.load("ensemble").generate([c for c in range(10) for _ in range(3)], [3, 4, 5] * 10)
    assert np.array_equal(np.load("x.npy").reshape(30, 2), expected.numpy())
