"""How a service is configured, and what is said where that is wrong."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_ray.cli import main
from msd_ray.errors import UserError
from msd_ray.serving.service.config import ServeConfig, load_config, parse_config
from msd_ray.serving.service.ensemble_facts import describe
from msd_ray.serving.service.versions import Traffic

from .ensembles import saved


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["msd-ray", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("keep: 3\ngateway: {port: 9100}\nlimits: {seconds: 5.0}\n")
    config = load_config(str(tmp_path / "serve.yaml"), ["gateway.port=9200", "students.min_replicas=0"])
    assert (config.keep, config.gateway.port, config.limits.seconds) == (3, 9200, 5.0)
    assert config.students.min_replicas == 0
    assert parse_config(config.to_json()) == config
    assert load_config(None) == ServeConfig()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"gateway": {"prot": 1}}, r"unknown key gateway\.prot; did you mean gateway\.port\?"),
        ({"gatewayy": {}}, "unknown key gatewayy; did you mean gateway"),
        ({"front": {"port": 1}}, "unknown key front; it is called gateway now"),
        ({"gateway": {"port": 99999}}, r"gateway\.port: input should be less than or equal to 65535, not 99999"),
        ({"gateway": {"port": "9000"}}, r"gateway\.port"),
        ({"gateway": {"tls_cert": "x"}}, "tls_cert and tls_key belong together"),
        ({"gateway": {"tls_client_ca": "x"}}, "tls_client_ca needs both"),
        ({"students": {"placement": "here"}}, "dedicated"),
        ({"students": {"min_replicas": 3}}, r"min_replicas \(3\) must be at most max_replicas \(1\)"),
        ({"students": {"placement": "gateway", "max_replicas": 2}}, "as many students as gateway.replicas"),
        ({"limits": {"images": 0}}, r"limits\.images: input should be greater than or equal to 1, not 0"),
        ({"keep": 0}, "keep: input should be greater than or equal to 1, not 0"),
        ({"traces": {"exporter": "here"}}, "module:function"),
        ({"traces": {"share": 2.0}}, r"traces\.share: input should be less than or equal to 1, not 2.0"),
        ({"students": {"queue": 100}}, "room for a request"),
        ({"gateway": 3}, "gateway"),
    ],
)
def test_wrong_values_are_told(raw: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        parse_config(raw)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no ensemble at"),
        (["nowhere", "gateway.prot=1"], "unknown key gateway.prot; did you mean gateway.port?"),
        (["nowhere", "--port", "99999"], "gateway.port: input should be less than or equal to 65535, not 99999"),
        (["--port", "x", "nowhere"], "Invalid value for '--port'"),
        (["nowhere", "--tls-cert", "x.pem"], "tls_cert and tls_key belong together"),
        (["nowhere", "--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["update", "nowhere"], "say which cluster serves"),
        (["rollback"], "say which cluster serves"),
        (["versions"], "say which cluster serves"),
        (["update", "nowhere", "--weight", "2"], "Invalid value for '--weight'"),
        (["config", "nowhere"], "no ensemble at"),
        (["start"], "Missing argument"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, monkeypatch, "serve", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [["update", "other"], ["rollback"], ["versions"]])
def test_what_ray_prints_of_dying_processes_is_not_in_an_operators_json(
    tiny: str, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msd_ray.serving.serve_apps import serve, updates

    version = describe(tiny)
    traffic = Traffic((version,), (1.0,))

    @contextmanager
    def noisy(address: str) -> Iterator[str]:
        print("(raylet) Task failed.")
        yield address
        print("(raylet) And another one.")

    class Operation:
        def current(self) -> tuple[Traffic, None, str]:
            print("(raylet) Task failed again.")
            return traffic, None, "dedicated"

        def update(self, *_: Any) -> Traffic:
            return self.current()[0]

        roll_back = update

    monkeypatch.setattr(serve, "connected", noisy)
    monkeypatch.setattr(updates, "Operation", Operation)
    code, out, err = run(capsys, monkeypatch, "serve", *arguments, "--address", "10.0.0.1:6379", "--json")
    assert code == 0 and err.count("(raylet)") == 3
    assert json.loads(out) == [{"name": version.name, "weight": 1.0, "uri": version.uri}]


def test_the_config_file_is_one_that_serve_takes(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.serve.schema import ServeDeploySchema

    code, out, _ = run(
        capsys, monkeypatch, "serve", "config", tiny, "students.max_replicas=4", "gateway.http_port=8100"
    )
    assert code == 0
    said = ServeDeploySchema(**yaml.safe_load(out))
    assert said.http_options.port == 8100
    names = [app.name for app in said.applications]
    assert len([name for name in names if name.startswith("msd-ray-part-")]) == 3
    assert names[-2:] == ["msd-ray-versions", "msd-ray"]
    assert [app.route_prefix for app in said.applications] == [None] * 4 + ["/"]
    assert said.applications[0].args["students"]["max_replicas"] == 4


def test_what_gateways_need_is_looked_for_before_anything_starts(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, "serve", tiny, "--tokens", "nowhere.txt")
    assert (code, err) == (2, "error: cannot read nowhere.txt: No such file or directory\n")


@pytest.mark.parametrize(
    ("command", "damage", "why"),
    [
        ([], "delete", "it is missing"),
        ([], "cut", "it has 100 bytes instead of"),
        (["config"], "delete", "it is missing"),
    ],
)
def test_a_damaged_file_is_told_before_anything_starts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    damage: str,
    why: str,
) -> None:
    uri = saved(tmp_path / "it")
    file = tmp_path / "it" / "student-0001.safetensors"
    file.unlink() if damage == "delete" else file.write_bytes(b"x" * 100)
    monkeypatch.setattr("msd_ray.serving.serve_apps.serve.connected", lambda *_: pytest.fail("a cluster was started"))
    code, out, err = run(capsys, monkeypatch, "serve", *command, uri)
    assert (code, out, len(err.splitlines())) == (1, "", 1)  # as for all that is damaged
    assert f"{file} is damaged: {why}" in err


def test_serve_has_no_http_port_where_it_would_not_ask_for_certificates() -> None:
    from msd_ray.serving.serve_apps.serve_options import serve_options

    tls = {"tls_cert": "a.pem", "tls_key": "a.key"}
    one_sided, mutual = parse_config({"gateway": tls}), parse_config({"gateway": {**tls, "tls_client_ca": "ca.pem"}})
    assert serve_options(one_sided)["proxy_location"] == "EveryNode"
    assert serve_options(one_sided)["http_options"]["ssl_certfile"] == "a.pem"
    assert serve_options(mutual)["proxy_location"] == "Disabled"


@pytest.mark.parametrize(
    ("cpus", "memory", "gpus", "students", "placed"),
    [
        (4, 1 << 40, 0, {}, "dedicated"),
        (3, 1 << 40, 0, {}, "multiplexed"),  # three parts and a gateway
        (64, 1 << 20, 0, {}, "multiplexed"),
        (64, 1 << 40, 1, {"gpus": 0.5}, "multiplexed"),
        (64, 1 << 40, 2, {"gpus": 0.5}, "dedicated"),
        (6, 1 << 40, 0, {"max_replicas": 2}, "multiplexed"),
        (1, 1 << 20, 0, {"placement": "dedicated"}, "dedicated"),
        (64, 1 << 40, 0, {"placement": "multiplexed"}, "multiplexed"),
        (64, 1 << 40, 0, {"placement": "gateway"}, "gateway"),
    ],
)
def test_students_share_a_process_where_there_is_no_room_for_several(
    tiny: str,
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    memory: int,
    gpus: int,
    students: dict[str, Any],
    placed: str,
) -> None:
    from msd_ray.serving.serve_apps import serve_options

    have = {"CPU": cpus, "memory": memory, "GPU": gpus}
    monkeypatch.setattr(serve_options.ray, "cluster_resources", lambda: have)
    assert serve_options.placement(describe(tiny), parse_config({"students": students})) == placed


@pytest.mark.parametrize(
    ("students", "memory", "resident"),
    [({}, 1 << 40, 8), ({"resident": 2}, 1 << 40, 6), ({"resident": 2}, 1 << 20, 2)],
)
def test_a_process_that_students_share_keeps_all_of_them_where_memory_allows(
    tiny: str, monkeypatch: pytest.MonkeyPatch, students: dict[str, Any], memory: int, resident: int
) -> None:
    from msd_ray.serving.serve_apps import serve_options

    monkeypatch.setattr(serve_options.ray, "cluster_resources", lambda: {"CPU": 1, "memory": memory})
    version, config = describe(tiny), parse_config({"students": students})
    assert serve_options.with_room(version, config).students.resident == resident
    fixed = parse_config({"students": {**students, "placement": "multiplexed"}})
    assert serve_options.with_room(version, fixed) == fixed
