"""A page in headless Chromium, over the DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which needs privileges that a container does not give
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-address=127.0.0.1",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no internet
)


class Page:
    """problems: what the browser logged as wrong, such as an exception or a breach of the content security policy.
    asked: the addresses that it asked for."""

    def __init__(self, connection: ClientConnection, session: str) -> None:
        self._connection, self._session, self._calls = connection, session, 0
        self.problems: list[str] = []
        self.asked: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol and its result."""
        self._calls += 1
        said = {"id": self._calls, "method": method, "params": params, "sessionId": self._session}
        self._connection.send(json.dumps(said))
        while True:
            message = json.loads(self._connection.recv(60))
            if message.get("id") == self._calls and message.get("sessionId") == self._session:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def open(self, url: str) -> None:
        """In a new document, also where only what follows # differs."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def do(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        said = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a condition holds, for a minute."""
        end = time.monotonic() + 60
        while not self.do(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}\n{self.do('document.body.innerText')}"
            time.sleep(0.05)

    def look(self, width: int, height: int, scheme: str) -> None:
        """As a screen of that size in a dark or light scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, file: Path) -> None:
        """A screenshot of the whole page."""
        said = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(said["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with one page. folder: for its profile."""
    assert FOUND
    process = subprocess.Popen([FOUND, *FLAGS, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.DEVNULL)
    try:
        with connect(_address(folder, process), max_size=None) as connection:
            yield Page(connection, _attached(connection))
    finally:
        process.terminate()
        process.wait(30)


def _address(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    """Where the browser listens, which it writes into its profile."""
    file, end = folder / "DevToolsActivePort", time.monotonic() + 60
    while not (file.exists() and file.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < end, "the browser does not start"
        time.sleep(0.05)
    port, path = file.read_text().splitlines()[:2]
    return f"ws://127.0.0.1:{port}{path}"


def _attached(connection: ClientConnection) -> str:
    """The session of the browser's first page."""
    targets = _asked(connection, "Target.getTargets")["targetInfos"]
    target = next(each["targetId"] for each in targets if each["type"] == "page")
    session: str = _asked(connection, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    return session


def _asked(connection: ClientConnection, method: str, **params: Any) -> dict[str, Any]:
    connection.send(json.dumps({"id": 0, "method": method, "params": params}))
    while True:
        message = json.loads(connection.recv(60))
        if message.get("id") == 0 and "sessionId" not in message:
            result: dict[str, Any] = message["result"]
            return result
