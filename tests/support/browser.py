"""A real headless Chromium, driven over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/).

Small on purpose: open a page at a size and in a colour scheme, run JavaScript in it, press keys, take a picture, and fail when
the page complained. Chromium is told to fetch nothing by itself; what it would need from outside, a page of ours must not need.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
START_SECONDS = 60.0
CALL_SECONDS = 60.0
WAIT_SECONDS = 30.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "about:blank",
)
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "PageDown": 34, "Home": 36, "End": 35}


class Browser:
    """One browser. Use it as a context manager."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tg-chromium-"))
        self._child: subprocess.Popen[bytes] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        with (self._directory / "log").open("wb") as log:
            command = [CHROMIUM, f"--user-data-dir={self._directory}", *FLAGS]
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        port_file = self._directory / "DevToolsActivePort"
        deadline = time.monotonic() + START_SECONDS
        while not (port_file.exists() and port_file.read_text().strip()):
            assert self._child.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.02)
        self._port = int(port_file.read_text().splitlines()[0])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._child is not None
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def open(self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> Page:
        """Open ``url`` in a tab of its own."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:
            target = json.load(answer)
        return Page(target["webSocketDebuggerUrl"], url, width, height, dark)


class Page:
    """One tab. ``complaints`` holds what it logged as an error, threw, or was refused to load."""

    def __init__(self, debugger_url: str, url: str, width: int, height: int, dark: bool) -> None:
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(connect(debugger_url, max_size=None))
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            assert self.complaints == []
        self.call("Page.close")
        self._stack.close()

    def call(self, method: str, **parameters: Any) -> Any:
        """Call one method of the protocol and return its result."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(CALL_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._notice(message)

    def _notice(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self.complaints.append(str([each.get("value") for each in parameters["args"]]))
            case _:
                pass

    def run(self, code: str) -> Any:
        """Return the value of an expression, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{code}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def wait_for(self, code: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({code})"):
            assert time.monotonic() < deadline, f"never true: {code}\n{self.complaints}\n{self.text()[:2000]}"
            time.sleep(0.05)

    def text(self) -> str:
        """What the page says."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def click(self, selector: str) -> None:
        """Click the first element that ``selector`` finds, as a mouse does."""
        where = self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.scrollIntoView({{block: 'nearest'}});"
            " const box = node.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def press(self, key: str, times: int = 1) -> None:
        """Press a key."""
        extra = {"text": "\r"} if key == "Enter" else {}
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                code = KEYS[key]
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    def write(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)

    def picture(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def metrics(self) -> dict[str, float]:
        """Chromium's own counters, such as ``ScriptDuration`` and ``TaskDuration`` in seconds."""
        return {each["name"]: each["value"] for each in self.call("Performance.getMetrics")["metrics"]}
