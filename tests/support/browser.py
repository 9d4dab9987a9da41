"""A page in Chromium, driven over its debugging pipe: what it logs, what it asks for, how wide it is, how it looks."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 390)
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes Chromium with the ends of two pipes where it looks for them: it reads from 3 and writes to 4."""
EVENTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


def find_chromium() -> str | None:
    """Return the program, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One headless Chromium with one page."""

    def __init__(self, read: Any, write: Any) -> None:
        self._read, self._write, self._number = read, write, 0
        self.console: list[Any] = []
        self.requests: list[str] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Open a file at a width, and wait until all of it is there."""
        self._send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self._send("Emulation.setScrollbarsHidden", hidden=True)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", features=scheme)
        self._send("Page.navigate", url=path.as_uri())
        self.evaluate(
            "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        answer = self._send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _send(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session := getattr(self, "_session", None):
            message["sessionId"] = session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = json.loads(self._receive())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self) -> bytes:
        parts = bytearray()
        while (one := self._read.read(1)) != b"\0":
            assert one, "Chromium ended"
            parts += one
        return bytes(parts)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") in EVENTS:
            self.console.append(event["params"])
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])


@contextlib.contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    """Start Chromium; end it with the block."""
    (theirs_in, write_end), (read_end, theirs_out) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]  # out of the way of 3 and 4
    switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, ends), program, *switches, f"--user-data-dir={profile}"],
            pass_fds=ends,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        try:
            with os.fdopen(read_end, "rb") as read, os.fdopen(write_end, "wb") as write:
                yield Browser(read, write)
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    page, folder = Path(sys.argv[1]).absolute(), Path(sys.argv[2])
    with open_browser(find_chromium() or "chromium") as browser:
        for width in WIDTHS:
            for dark in (False, True):
                browser.open(page, width=width, dark=dark)
                browser.screenshot(folder / f"{width}{'-dark' if dark else ''}.png")
                print(width, dark, browser.evaluate("[document.documentElement.scrollWidth, innerWidth]"))
        print("console:", browser.console)
        print("requests:", sorted({url[:60] for url in browser.requests}))
