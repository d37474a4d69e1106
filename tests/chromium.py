"""A headless Chromium, driven through its own protocol on two pipes: no driver, no package.

with Chromium() as browser:
    page = browser.open(path, width=390, dark=True)
    page.requests, page.problems, page.overflow, page.png
"""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def find() -> str | None:
    """Path of a Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Page:
    """What Chromium saw while it showed a page.

    Attributes:
        requests: addresses asked for, the page's own first.
        problems: errors and warnings of the console, exceptions, and what the policy blocked.
        overflow: pixels by which the page is wider than the window.
        height: of the whole page.
        text: what is to be read.
        png: of the whole page.
    """

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    overflow: int = 0
    height: int = 0
    text: str = ""
    png: bytes = b""


class Chromium:
    """One process; ``open`` shows a file in a fresh tab."""

    def __init__(self, program: str) -> None:
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="edgeformer-chromium-")
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()
        # Chromium expects its pipes as numbers 3 and 4; ours must not be in their way meanwhile.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        silence = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, end, n) for end, n in zip(ends, (3, 4), strict=True)]
        closed = [(os.POSIX_SPAWN_CLOSE, end) for end in ends]
        arguments = [program, *_OPTIONS, f"--user-data-dir={self._folder.name}"]
        self._process = os.posix_spawn(
            program, arguments, os.environ, file_actions=[*silence, *pipes, *closed]
        )
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._rest = b""

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._ask("Browser.close")
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)
        self._folder.cleanup()

    def open(self, path: Path, width: int, height: int = 900, dark: bool = False) -> Page:
        """Show a file in a window of that size, in the light or in the dark."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._ask(f"{domain}.enable", session)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", session, features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", session, **size)
        self._events.clear()
        self._ask("Page.navigate", session, url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        page = Page()
        root = "document.documentElement"
        page.overflow = self._value(session, f"{root}.scrollWidth - {width}")
        page.height = self._value(session, f"{root}.scrollHeight")
        page.text = self._value(session, "document.body.innerText")
        picture = self._ask(
            "Page.captureScreenshot", session, format="png", captureBeyondViewport=True
        )
        page.png = base64.b64decode(picture["data"])
        page.requests = list(self._requests())
        page.problems = list(self._problems())
        self._ask("Target.closeTarget", targetId=target)
        return page

    def _value(self, session: str, expression: str) -> Any:
        found = self._ask("Runtime.evaluate", session, expression=expression, returnByValue=True)
        return found["result"]["value"]

    def _ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer, keeping the events that come before it."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for found in self._messages():
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return dict(found["result"])
        raise EOFError(method)

    def _wait_for(self, method: str) -> None:
        if not any(event["method"] == method for event in self._events):
            next(found for found in self._messages() if found.get("method") == method)

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" not in self._rest:
                piece = os.read(self._read, 1 << 20)
                if not piece:
                    return
                self._rest += piece
            line, _, self._rest = self._rest.partition(b"\0")
            found = json.loads(line)
            if "method" in found:
                self._events.append(found)
            yield found

    def _requests(self) -> Iterator[str]:
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                yield event["params"]["request"]["url"]

    def _problems(self) -> Iterator[str]:
        for event in self._events:
            parameters = event["params"]
            if event["method"] == "Log.entryAdded":
                yield parameters["entry"]["text"]
            if event["method"] == "Runtime.consoleAPICalled":
                yield str(parameters["args"])
            if event["method"] == "Runtime.exceptionThrown":
                yield str(parameters["exceptionDetails"])
