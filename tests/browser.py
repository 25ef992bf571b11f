"""Headless Chromium for tests, over the DevTools protocol through its own pipes: no packages.

Chromium reads commands from file descriptor 3 and answers on 4, JSON with a zero byte at the end.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# puts two inherited descriptors at 3 and 4, whatever their numbers, and becomes the browser
_LAUNCH = """import os, sys
for given, free in zip(sys.argv[1:3], (103, 104)):
    os.dup2(int(given), free)
for free, fixed in ((103, 3), (104, 4)):
    os.dup2(free, fixed)
os.closerange(5, 128)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page; everything that it logs, throws or asks of the network is kept in lists."""

    def __init__(self, folder: Path, width: int = 1440, height: int = 900, dark: bool = False
                 ) -> None:  # fmt: skip
        program = find_browser()
        assert program is not None
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        words = [
            sys.executable, "-c", _LAUNCH, str(down), str(up), program, "--headless=new",
            "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
            "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars",
            f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(words, pass_fds=(down, up), stdout=null, stderr=null)
        os.close(down)
        os.close(up)
        self._last, self._buffer = 0, b""
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Network.emulateNetworkConditions", offline=True, latency=0,
                   downloadThroughput=0, uploadThroughput=0)  # fmt: skip
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=False)  # fmt: skip
        self.theme("dark" if dark else "light")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._write)
        os.close(self._read)

    def theme(self, name: str) -> None:
        """Pretend that the system prefers this theme."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self._call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, path: Path, ready: str = "document.readyState === 'complete'") -> None:
        """Load a file and wait until an expression holds."""
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.wait(ready)

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + seconds
        while not self.eval(expression):
            assert time.monotonic() < end, f"still not: {expression}; {self.problems}"
            time.sleep(0.03)

    def eval(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True,
                            awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        x, y = self.middle(selector)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def middle(self, selector: str) -> tuple[float, float]:
        """Scroll an element into sight and return the place of its middle."""
        place = self.eval(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return "
            "null; e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        assert place, f"nothing fits {selector}"
        return place[0], place[1]

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Send one event of the left button, or a move with it held."""
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1,
                   buttons=0 if kind == "mouseReleased" else 1)  # fmt: skip

    def hover(self, x: float, y: float) -> None:
        """Move the mouse with no button held."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> Path:
        """Write what is in sight as PNG."""
        data = self._call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _receive(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        name, what = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.problems.append(str(what["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.problems.append(str(what["args"]))
        elif name == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(what["entry"]))
        elif name == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
