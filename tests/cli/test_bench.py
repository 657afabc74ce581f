"""`msd-ray bench` against a tiny service in this process."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msd_ray.serving.client import Client, Connection
from msd_ray.serving.service.request import Limits

from ..serving.certificates import certificates
from ..serving.conftest import Running, running
from ..serving.ensembles import saved
from ..serving.whole import eventually
from .test_refusals import run

TOKEN = "secret"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "tokens").write_text(TOKEN)
    with running([saved(folder / "tiny")], Limits(images=32), tokens=str(folder / "tokens")) as it:
        yield it


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_TOKEN", TOKEN)


def test_a_service_is_loaded(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ["--callers", "1,2", "--rate", "20", "--seconds", "0.5", "--images", "2", "--conditions", "0-3"]
    picture = tmp_path / "load.svg"
    code, out, err = run(capsys, monkeypatch, "bench", service.address, *options, "--json", "-o", str(picture))
    stages = json.loads(out)["stages"]
    assert (code, [stage["load"] for stage in stages]) == (0, ["1 callers", "2 callers", "20/s"]), err
    for stage in stages:
        assert stage["answered"] == stage["requests"] > 0 and stage["images"] == 2 * stage["answered"]
        assert 0 < stage["p50_ms"] <= stage["p95_ms"] <= stage["p99_ms"] and not stage["errors"]
    assert picture.read_bytes().startswith(b"<?xml")
    assert "20/s: " in err

    code, out, err = run(capsys, monkeypatch, "bench", service.address, "--callers", "1", "--seconds", "0.2")
    assert (code, out.split()[:3]) == (0, ["load", "requests", "images/s"]), err
    assert "1 callers" in out


def test_prompts_are_drawn_from_a_file_and_tls_is_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files, labels = certificates(tmp_path / "tls"), tmp_path / "labels"
    labels.write_text("digit 3\n\n digit 4 \n")
    tls = {"tls_cert": files.server_cert, "tls_key": files.server_key, "tls_client_ca": files.ca}
    mine = ["--tls-ca", files.ca, "--tls-cert", files.client_cert, "--tls-key", files.client_key]
    with running([saved(tmp_path / "tiny")], Limits(), **tls) as it:
        options = ["--prompts", str(labels), "--callers", "1", "--seconds", "0.2", "--json"]
        code, out, err = run(capsys, monkeypatch, "bench", it.address, *options, *mine)
        assert code == 0, err
        assert json.loads(out)["stages"][0]["answered"] > 0
        code, out, err = run(capsys, monkeypatch, "bench", it.address, *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


WRONG = {
    "an address nobody listens at": (["127.0.0.1:9"], "no service answers at 127.0.0.1:9"),
    "an address without a port": (["127.0.0.1"], "is not the address of a gRPC port"),
    "an address of HTTP": (["http://127.0.0.1:9000"], "is not the address of a gRPC port"),
    "a wrong token": (["HERE", "--token", "wrong"], "this token is not valid"),
    "a class too high": (["HERE", "--conditions", "3,77"], "no class 77: it has 0 to 9"),
    "an unknown label": (["HERE", "--conditions", "cat"], "no class 'cat'"),
    "half a range": (["HERE", "--conditions", "3-"], "not of the form"),
    "too many images": (["HERE", "--images", "33"], "at most 32 images"),
    "an unknown format": (["HERE", "--format", "gif"], "no format 'gif'"),
    "half a caller": (["HERE", "--callers", "1.5"], "whole numbers"),
    "no callers": (["HERE", "--callers", "0"], "whole numbers above 0"),
    "words as callers": (["HERE", "--callers", "many"], "not of the form"),
    "a negative rate": (["HERE", "--rate", "-1"], "numbers above 0"),
    "no rate at all": (["HERE", "--rate", "nan"], "numbers above 0"),
    "a picture of another kind": (["HERE", "-o", "x.gif"], "written as .svg or .png"),
    "a picture nowhere": (["HERE", "-o", "nowhere/x.svg"], "no directory nowhere"),
    "prompts that are not there": (["HERE", "--prompts", "nowhere"], "cannot read nowhere"),
    "prompts and conditions": (["HERE", "--prompts", "x", "--conditions", "1"], "give one of them"),
    "a certificate that is not there": (["HERE", "--tls-ca", "nowhere.pem"], "cannot read nowhere.pem"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(
    service: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments, said = WRONG[name]
    here = [service.address if each == "HERE" else each for each in arguments]
    code, out, err = run(capsys, monkeypatch, "bench", *here)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith("error: ") and said in err


def test_ctrl_c_prints_what_was_measured(service: Running) -> None:
    line = [sys.executable, "-m", "msd_ray", "bench", service.address, "--rate", "20", "--seconds", "600", "--json"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with Client(Connection(service.address, TOKEN)) as client:
        before = client.ensemble().versions[0].served.images
        assert eventually(lambda: client.ensemble().versions[0].served.images > before + 30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    (stage,) = json.loads(out)["stages"]
    assert (process.returncode, err.splitlines()[-1]) == (130, "stopped")
    assert stage["answered"] > 0 and stage["p99_ms"] > 0
