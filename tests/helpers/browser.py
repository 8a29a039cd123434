"""Chromium without a window, driven over its DevTools protocol; needs no package, only the program.

The protocol: https://chromedevtools.github.io/devtools-protocol/. Messages go through two pipes, each ends with a zero
byte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_LIMIT_S = 30
# Resolves with the value of an expression once it is true, and looks whenever the page changes.
_UNTIL = """new Promise((resolve) => {
  const look = () => { const value = (%s); if (value) { watching.disconnect(); resolve(value); } };
  const watching = new MutationObserver(look);
  watching.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  look();
})"""


class Browser:
    """A running browser, with one page at a time.

    Attributes:
        problems: What the page complained about since it was opened: errors, warnings, violations of its policy.
    """

    def __init__(self, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        # The protocol's pipes are numbers 3 and 4 in the browser.
        redirected = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "-", CHROMIUM, *options, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number = 0
        self._received = b""
        self._session: str | None = None
        self._target = ""
        self.problems: list[str] = []

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, touch: bool = False) -> None:
        """Opens a page of its own, in a window of this size, and waits until it is loaded."""
        if self._target:
            self._session = None
            self.send("Target.closeTarget", targetId=self._target)
        context = self.send("Target.createBrowserContext")["browserContextId"]
        self._target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.problems.clear()
        self.look(width=width, height=height, dark=dark, touch=touch)
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def look(self, *, width: int, height: int, dark: bool, touch: bool = False) -> None:
        """Changes the size of the window, and whether the user prefers dark pages."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if touch else 1,
            mobile=touch,
        )  # fmt: skip
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def eval(self, expression: str) -> Any:
        """Returns the value of an expression; of a promise what it resolves with."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Waits until an expression is true; returns its value."""
        while True:
            try:
                return self.eval(_UNTIL % expression)
            except _Navigated:
                continue

    def drag(self, selector: str, points: list[tuple[float, float]], *, touch: bool = False) -> None:
        """Moves the pressed mouse, or a finger, over an element through points that are shares of its sides."""
        box = self.eval(f"(({{x, y, width, height}}) => [x, y, width, height])(document.querySelector({selector!r})"
                        ".getBoundingClientRect())")  # fmt: skip
        places = [{"x": box[0] + x * box[2], "y": box[1] + y * box[3]} for x, y in points]
        if touch:
            for kind, at in zip(["touchStart", *["touchMove"] * len(places[1:])], places, strict=True):
                self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[at])
            self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            return
        pressed = {"button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type="mousePressed", **pressed, **places[0])
        for at in places[1:]:
            self.send("Input.dispatchMouseEvent", type="mouseMoved", buttons=1, **pressed, **at)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", **pressed, **places[-1])

    def press(self, *keys: str) -> None:
        """Presses keys, one after the other, by their DOM names."""
        for key in keys:
            for kind in ("rawKeyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=key, code="Space" if key == " " else key)

    def choose(self, selector: str, path: Path) -> None:
        """Chooses a file, as its user does in the dialogue that the browser shows."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path: Path) -> None:
        """Takes a picture of the whole page."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result. Meanwhile notes what the page complains about."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        ends = time.monotonic() + _LIMIT_S
        while True:
            answer = self._receive(ends, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise _Navigated(answer["error"]["message"])
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, event: str | None, params: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(each.get("value")) for each in params["args"]))
        elif event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])

    def _receive(self, ends: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._received:
            readable, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            chunk = os.read(self._in, 1 << 20) if readable else b""
            assert chunk, f"the browser did not answer {method}"
            self._received += chunk
        found, _, self._received = self._received.partition(b"\0")
        return json.loads(found)

    def close(self) -> None:
        os.close(self._out)  # which ends it
        try:
            self._process.wait(_LIMIT_S)
        finally:
            self._process.kill()
            os.close(self._in)


class _Navigated(Exception):
    """A command failed, mostly because its page is being replaced by another."""


@contextlib.contextmanager
def run_browser(profile: Path) -> Iterator[Browser]:
    """Runs a browser; its profile is this folder."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
