"""Scripts as a site has them, which publish."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import BIN, Process, Site, wait_for


def script(site: Site, text: str, *before: str, **options: Any) -> Process:
    """A script of somebody's, started; ``before`` stands before it on the command line."""
    path = site.root / f"script{time.monotonic_ns()}.py"
    path.write_text(f"import fedmsg_relay, os, sys, threading, time\n{textwrap.dedent(text)}")
    return site.start(*before, BIN / "python", path, **options)


STEPS = """
def at_each_step(handle, work, *files):
    \"""Have work() interrupted by handle(), as by a signal, at each of its steps.\"""
    at, left = 0, 0
    while left <= 0:
        at = left = at + 3  # of the steps that belong together one at least is met

        def trace(frame, event, argument):
            nonlocal left
            if not any(part in frame.f_code.co_filename for part in files):
                return None
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left == 0 and event == "opcode":
                sys.settrace(None)
                handle()
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)
"""
"""Part of a script: signals come between two steps of Python's, some of which are a rare sight."""


def bodies(received: list[list[bytes]]) -> list[Any]:
    """What was published, without what fedmsg puts around it."""
    return [json.loads(body)["msg"] for _, body in received]


def signing(site: Site) -> None:
    """Have the site's messages signed."""
    host = socket.gethostname().partition(".")[0]
    key, certificate = site.root / "shell.key", site.root / "shell.crt"
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=shell")
    command = ("openssl", *made, "-keyout", key, "-out", certificate)
    subprocess.run(command, check=True, capture_output=True)
    site.write(sign_messages=True, ssldir=str(site.root), certnames={f"shell.{host}": "shell"})


def port_of(uri: str) -> int:
    return int(uri.rpartition(":")[2])


@contextlib.contextmanager
def stopped(process: Process) -> Iterator[None]:
    """The process with every thread stopped, and going on afterwards."""
    process.kill(signal.SIGSTOP)
    for state in Path(f"/proc/{process.pid}/task").glob("*/stat"):
        wait_for(lambda state=state: ") T " in state.read_text(), "every thread to stop")
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
