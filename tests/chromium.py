"""Headless Chromium driven over its debugging pipe: real key presses, clicks and fingers, and what was painted.

Nothing but the browser is needed: commands and answers are JSON, each ended by a zero byte, on two pipes.
"""

import base64
import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-pipe",
)
CODES = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Backspace": 8,
    "Enter": 13,
    "Escape": 27,
    "Tab": 9,
    " ": 32,
}
ON_3_AND_4 = "import os, sys; [os.dup2(int(sys.argv[i]), i + 2) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
"""The browser reads its commands from descriptor 3 and answers on 4."""
SHIFT, CONTROL = 8, 2
PATIENCE = 120.0
"""Seconds before a wait is given up. Ten browsers on two busy cores take their time; no test passes by it."""


@final
class Chromium:
    """A browser of its own profile, closed at the end of the ``with``."""

    def __init__(self) -> None:
        assert BINARY is not None
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        reads, self._out = os.pipe()
        self._in, writes = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (reads, writes)]
        command = [BINARY, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", ON_3_AND_4, *map(str, high), *command],
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (reads, writes, *high):
            os.close(end)
        self._lock = threading.Lock()
        self._number = 0
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self.send("Browser.close")
        self.process.wait(20)
        os.close(self._out)
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; an error of the browser is a `RuntimeError`."""
        with self._lock:
            self._number += 1
            number = self._number
            answer = self._answers[number] = queue.Queue()
            message = {"id": number, "method": method, "params": parameters} | (
                {"sessionId": session} if session else {}
            )
            os.write(self._out, json.dumps(message).encode() + b"\0")
        found = answer.get(timeout=PATIENCE)
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        return dict(found["result"])

    def page(self, width: int = 1280, height: int = 800, *, phone: bool = False, private: bool = False) -> "Page":
        """Return a new empty page; ``private`` shares no storage with the others."""
        context = {"browserContextId": self.send("Target.createBrowserContext")["browserContextId"]} if private else {}
        target = self.send("Target.createTarget", url="about:blank", **context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, target, session, width, height, phone)

    def _listen(self) -> None:
        kept = b""
        while data := os.read(self._in, 1 << 20):
            *whole, kept = (kept + data).split(b"\0")
            for message in map(json.loads, whole):
                if "id" in message:
                    self._answers.pop(message["id"]).put(message)
                elif message.get("sessionId") in self.listeners:
                    self.listeners[message["sessionId"]](message["method"], message["params"])
        os.close(self._in)


@final
class Page:
    """One tab: what it asked for (``requests``), what it complained of (``errors``), and a person's hands on it."""

    def __init__(self, browser: Chromium, target: str, session: str, width: int, height: int, phone: bool) -> None:
        self.browser = browser
        self.target = target
        self.session = session
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        self.loaded: str | None = None
        """Which document has loaded, by its loader's id; None while one is on its way."""
        self._loading = ""
        browser.listeners[session] = self._heard
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        if phone:
            self.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)
            self.send("Emulation.setEmitTouchEventsForMouse", enabled=False)
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **parameters)

    def _heard(self, method: str, found: dict[str, Any]) -> None:
        if method == "Page.frameNavigated" and "parentId" not in found["frame"]:
            self._loading, self.loaded = found["frame"]["loaderId"], None
        elif method == "Page.loadEventFired":
            self.loaded = self._loading
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"])
        elif method == "Network.responseReceived":
            self.answers[found["requestId"]] = found["response"]
        elif method == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.errors.append(f"{found['entry']['text']} {found['entry'].get('url', '')}")

    def open(self, address: str) -> None:
        """Go to ``address`` and wait until it has loaded; what is asked from now on is asked of the new document."""
        found = self.send("Page.navigate", url=address)
        if "errorText" in found:
            raise RuntimeError(f"{address}: {found['errorText']}")
        end = time.monotonic() + PATIENCE
        while self.loaded != found["loaderId"]:
            if time.monotonic() > end:
                raise TimeoutError(f"{address} does not load; errors: {self.errors}")
            time.sleep(0.005)

    def js(self, expression: str) -> Any:
        """Return the value of an expression, or of the promise that it is."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", str(found)))
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = PATIENCE) -> None:
        """Wait for ``expression`` to be true."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self.js(f"Boolean({expression})"):
                    return
            except RuntimeError:  # between two documents
                pass
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; errors: {self.errors}")
            time.sleep(0.01)

    def key(self, key: str, modifiers: int = 0, *, repeats: int = 0, release: bool = True) -> None:
        """Press a key, let it repeat as a held one does, and let go."""
        self.key_down(key, modifiers)
        for _ in range(repeats):
            self.key_down(key, modifiers, repeat=True)
        if release:
            self.key_up(key, modifiers)

    def key_down(self, key: str, modifiers: int = 0, *, repeat: bool = False) -> None:
        writes = len(key) == 1 and not modifiers & CONTROL
        text = {"text": key} if writes else {"text": "\r"} if key == "Enter" else {}
        self.send(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            **self._key(key, modifiers),
            autoRepeat=repeat,
            **text,
        )

    def key_up(self, key: str, modifiers: int = 0) -> None:
        self.send("Input.dispatchKeyEvent", type="keyUp", **self._key(key, modifiers))

    def _key(self, key: str, modifiers: int) -> dict[str, Any]:
        code = CODES.get(key, ord(key.upper()[0]))
        return {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers, "code": key if len(key) > 1 else ""}

    def where(self, selector: str) -> tuple[float, float]:
        """Return the middle of an element on the screen."""
        element = f"document.querySelector({selector!r}).getBoundingClientRect()"
        box = self.js(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({element})")
        return float(box[0]), float(box[1])

    def click(self, selector: str) -> None:
        self.mouse("mousePressed", *self.where(selector))
        self.mouse("mouseReleased", *self.where(selector))

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        pressed = kind in ("mousePressed", "mouseReleased")
        button = {"button": "left", "clickCount": 1} if pressed else {}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button, **more)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        self.mouse("mousePressed", *start)
        for i in range(1, steps + 1):
            x, y = (a + (b - a) * i / steps for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, button="left", buttons=1)
        self.mouse("mouseReleased", *end)

    def swipe(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        for i in range(steps + 1):
            x, y = (a + (b - a) * i / steps for a, b in zip(start, end, strict=True))
            kind = "touchStart" if i == 0 else "touchMove"
            self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y, "id": 1}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def scheme(self, name: str) -> None:
        """Show the page as a person does who asked the system for ``dark`` or ``light``."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.browser.send("Target.closeTarget", targetId=self.target)
