"""What browsers and machines before the gateway need: other origins, IPv6, a Unix socket."""

import stat
from pathlib import Path

import pytest
import requests

from msd_ray.errors import UserError
from msd_ray.serving.client import Client, Connection, RefusedError
from msd_ray.serving.client.calls import NEVER
from msd_ray.serving.service.config import GatewayConfig, parse_config
from msd_ray.serving.service.request import Limits

from .conftest import running
from .test_gateway import Failing

PAGE = "https://a.example"


def asked(url: str, origin: str, method: str = "POST") -> dict[str, str]:
    """The headers that tell a browser whether a page of that origin may ask so."""
    headers = {"origin": origin, "access-control-request-method": method}
    headers["access-control-request-headers"] = "authorization, content-type"
    answer = requests.options(f"{url}/v1/generate", headers=headers, timeout=20)
    return {"status": str(answer.status_code), **{k.lower(): v for k, v in answer.headers.items()}}


def test_pages_of_named_origins_may_ask_and_others_may_not(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret")
    allowed = "access-control-allow-origin"
    with running([tiny], Limits(), Failing([]), origins=(PAGE,), tokens=str(tmp_path / "tokens")) as it:
        assert asked(it.url, PAGE)["status"] == "200" and asked(it.url, PAGE)[allowed] == PAGE
        assert allowed not in asked(it.url, "https://b.example")
        assert asked(it.url, PAGE, "DELETE")["status"] == "400"
        for token, status in (("secret", 200), ("wrong", 401)):  # a page can read refusals as well
            headers = {"origin": PAGE, "authorization": f"Bearer {token}"}
            answer = requests.post(f"{it.url}/v1/generate", json={"conditions": [0]}, headers=headers, timeout=20)
            assert (answer.status_code, answer.headers[allowed]) == (status, PAGE)
            assert "retry-after" in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers


def test_without_origins_no_other_page_may_ask(tiny: str) -> None:
    with running([tiny], Limits(), Failing([])) as it:
        found = asked(it.url, PAGE)
        assert found["status"] == "405" and not any(key.startswith("access-control") for key in found)


def test_grpc_listens_on_ipv6(tiny: str) -> None:
    with running([tiny], Limits(), Failing([]), host="::1") as it:
        assert it.address.startswith("[::1]:")
        with Client(it.address) as client:
            assert client.generate([0])[0].data == b"x"
    assert GatewayConfig(host="fd00::1").address(9000) == "[fd00::1]:9000"
    assert GatewayConfig(host="here").address(9000) == "here:9000"


def test_grpc_listens_on_a_unix_socket_too(tiny: str, tmp_path: Path) -> None:
    path, tokens = tmp_path / "s", tmp_path / "tokens"
    tokens.write_text("secret")
    for _ in range(2):  # a socket that the last one left is no obstacle
        with running([tiny], Limits(), Failing([]), socket=str(path), tokens=str(tokens)) as it:
            assert stat.S_ISSOCK(path.stat().st_mode)
            for where in (f"unix:{path}", it.address):
                with Client(Connection(where, token="secret")) as client:
                    assert client.generate([0])[0].data == b"x"
            with Client(f"unix:{path}") as client, pytest.raises(RefusedError, match="UNAUTHENTICATED"):
                client.generate([0])
        with Client(f"unix:{path}", retry=NEVER, seconds=5) as client, pytest.raises(RefusedError, match="UNAVAIL"):
            client.ensemble()


def test_a_unix_socket_that_cannot_be_is_told(tiny: str, tmp_path: Path) -> None:
    where = str(tmp_path / "nowhere" / "s")
    with pytest.raises(OSError, match="cannot listen on unix:"), running([tiny], Limits(), socket=where):
        pass
    with pytest.raises(UserError, match="for one gateway"):
        parse_config({"gateway": {"socket": "/run/s", "replicas": 2}})
