"""A headless Chromium driven over its debugging pipe: one start, many pages, no package needed beside the browser."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300  # seconds: a busy machine is slow, a broken page never ends
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


class Browser:
    """Speaks the DevTools protocol: JSON messages that end with a zero byte, on file descriptors 3 and 4 of Chromium."""

    def __init__(self, profile: Path) -> None:
        ends = os.pipe() + os.pipe()
        # above the two numbers that Chromium expects, so that neither redirection overwrites the other's source
        their_in, self.write, self.read, their_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
        for end in ends:
            os.close(end)
        start = f'exec "$@" 3<&{their_in} 4>&{their_out} {their_in}<&- {their_out}>&-'
        self.process = subprocess.Popen(
            ["bash", "-c", start, "chromium", CHROMIUM or "chromium", *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self.numbers, self.buffer, self.events = itertools.count(1), b"", list[dict[str, Any]]()

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command and its result; events that come in between are kept. Raises RuntimeError on a protocol error."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            if not select.select([self.read], [], [], PATIENCE)[0]:
                raise TimeoutError("Chromium does not answer")
            read = os.read(self.read, 1 << 20)
            if not read:
                raise RuntimeError("Chromium closed its debugging pipe")
            self.buffer += read
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, fragment: str = "") -> Tab:
        return Tab(self, page.resolve().as_uri() + fragment)

    def close(self) -> None:
        try:
            self.send("Browser.close")
        finally:
            os.close(self.write)
            os.close(self.read)
            self.process.wait(timeout=30)


class Tab:
    """One page: what it asked the network for, what it complained about, what its script answers."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **params)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = PATIENCE) -> None:
        """Waits for a JavaScript condition; raises TimeoutError."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def seen(self, method: str) -> list[dict[str, Any]]:
        self.run("0")  # whatever the page sent before is in by now
        return [
            e["params"] for e in self.browser.events if e.get("sessionId") == self.session and e["method"] == method
        ]

    def requests(self) -> list[str]:
        return [event["request"]["url"] for event in self.seen("Network.requestWillBeSent")]

    def complaints(self) -> list[Any]:
        """Console messages, log entries (a blocked resource or style is one) and uncaught errors."""
        found = [event["args"] for event in self.seen("Runtime.consoleAPICalled")]
        found += [event["entry"]["text"] for event in self.seen("Log.entryAdded")]
        return found + [event["exceptionDetails"]["text"] for event in self.seen("Runtime.exceptionThrown")]

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def media(self, kind: str = "", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=kind, features=features)

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        data = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))
