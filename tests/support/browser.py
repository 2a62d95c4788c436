"""A real browser without a window: Chromium, led through a pipe (Chrome DevTools Protocol)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

COMMANDS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

DEADLINE_S = 60.0


def installed() -> str | None:
    """The command of a Chromium; None if there is none."""
    return next(filter(None, map(shutil.which, COMMANDS)), None)


class Browser(contextlib.AbstractContextManager["Browser"]):
    """One page of a Chromium whose files are in ``directory``."""

    def __init__(self, directory: Path, width: int = 1280, height: int = 900) -> None:
        command = installed()
        assert command is not None
        self.problems: list[str] = []
        """What the console of the page has said, and exceptions of its script."""
        self._number = 0
        self._received = b""
        commands, self._writer = os.pipe()
        self._reader, answers = os.pipe()
        # The protocol is spoken at the descriptors 3 and 4.
        shell = f'exec "$@" 3<&{commands} 4>&{answers}'
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
        with (directory / "chromium.log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    *("bash", "-c", shell, "bash", command, *options),
                    *(f"--user-data-dir={directory}/chromium", f"--window-size={width},{height}"),
                ],
                pass_fds=(commands, answers),
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(directory)},
                start_new_session=True,
            )
        os.close(commands)
        os.close(answers)
        self._session: str | None = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.resize(width, height)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Say something to the browser, and return its answer."""
        self._number += 1
        said: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            said["sessionId"] = self._session
        os.write(self._writer, json.dumps(said).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE_S
        while True:
            message = self._next(deadline)
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            left_s = deadline - time.monotonic()
            ready, _, _ = select.select([self._reader], [], [], max(0.0, left_s))
            assert ready, "the browser does not answer"
            chunk = os.read(self._reader, 2**20)
            assert chunk, "the browser has ended"
            self._received += chunk
        first, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(message["params"]))
        return message

    def open(self, url: str) -> None:
        """Go to an address; returns when all of the page is there."""
        self.command("Page.navigate", url=url)
        deadline = time.monotonic() + DEADLINE_S
        while self.run("document.readyState + location.href") != f"complete{url}":
            assert time.monotonic() < deadline, f"{url} does not load"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        done = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def text(self, selector: str) -> str:
        """What a reader sees of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def resize(self, width: int, height: int, is_dark: bool = False) -> None:
        """Be a window, or a phone, of that many pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def allow_scripts(self, is_allowed: bool) -> None:
        """Whether pages that are opened from now on may run their scripts."""
        self.command("Emulation.setScriptExecutionDisabled", value=not is_allowed)

    def screenshot(self, path: Path, is_whole: bool = True) -> None:
        """Write a picture of the whole page, or of what the window shows, as PNG."""
        taken = self.command("Page.captureScreenshot", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def __exit__(self, *_: object) -> None:
        os.close(self._writer)  # which ends it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # its helpers may take longer
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(ChildProcessError):  # none is left
            while True:  # its helpers are children of this process now, see harness.set_up()
                os.waitpid(-self._process.pid, 0)
        os.close(self._reader)
