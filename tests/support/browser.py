"""Debian's Chromium without a window, spoken to through its two pipes (the DevTools protocol), so that no library is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from waiting import wait_until

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--remote-debugging-pipe", "--force-device-scale-factor=1"),
)
# the browser reads commands from 3 and writes answers to 4
START = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
PATIENCE_S = 60.0


def find_chromium() -> str:
    """The browser's path; without one the test is skipped, except where CI must have it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI must open the pages: apt-get install chromium")
        pytest.skip("no Chromium is installed (Debian's package chromium)")
    return found


class Browser:
    """One window. `see` waits for what a page is to show; `console` holds what its scripts complained of."""

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 960) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        ours = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (commands, answers)]
        words = [find_chromium(), *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
        self._child = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, ours), *words], pass_fds=ours, stderr=subprocess.DEVNULL
        )
        for one in (*ours, commands, answers):
            os.close(one)
        self._number, self._rest = 0, b""
        self.console: list[str] = []
        targets = self._ask("Target.getTargets", None)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", None, targetId=page, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for method, words_ in {"Runtime.enable": {}, "Log.enable": {}, "Emulation.setDeviceMetricsOverride": size}.items():
            self.ask(method, **words_)

    def open(self, url: str) -> None:
        """Goes to an address, with nothing left of the page before."""
        self.ask("Page.navigate", url="about:blank")
        self.console.clear()
        self.ask("Page.navigate", url=url)
        self.see("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is, in the page; promises are awaited."""
        told = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def see(self, expression: str) -> Any:
        """The expression's value, once it is true; an element is no value."""
        seen: list[Any] = []

        def glance() -> bool:
            seen.append(self.value(expression))
            return bool(seen[-1])

        try:
            wait_until(glance, patience_s=PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"never true: {expression}; {self.console}") from error
        return seen[-1]

    def text(self, selector: str) -> str:
        """What stands in an element."""
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """A click in the middle of an element, as of a mouse."""
        place = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.value(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({place})")
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> Path:
        """The window as a PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
        return path

    def ask(self, method: str, **words: Any) -> dict[str, Any]:
        """A command of the DevTools protocol to the page."""
        return self._ask(method, self._session, **words)

    def close(self) -> None:
        """Ends the browser."""
        try:
            self._ask("Browser.close", None)
            self._child.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._child.kill()
            self._child.wait()
        for one in (self._commands, self._answers):
            os.close(one)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, session: str | None, **words: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": words}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == self._number:
                assert "error" not in told, told
                return dict(told["result"])
            self._note(told)

    def _read(self) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], limit - time.monotonic())
            assert ready, "the browser doesn't answer"
            part = os.read(self._answers, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, told: dict[str, Any]) -> None:
        words = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.console.append(str(words["exceptionDetails"].get("exception", {}).get("description", words)))
        elif told.get("method") == "Log.entryAdded" and words["entry"]["level"] == "error":
            self.console.append(f"{words['entry']['text']} {words['entry'].get('url', '')}")
        elif told.get("method") == "Runtime.consoleAPICalled" and words["type"] in ("error", "warning"):
            self.console.append(str(words["args"]))
