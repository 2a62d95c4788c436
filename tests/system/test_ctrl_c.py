"""Ctrl-C while a command is loaded: no traceback, whatever is being imported."""

from __future__ import annotations

import signal

import pytest
from harness import BIN, Site
from scripts import script

PUBLISH = ("fedmsg-relay-publish", "--message", "x")
STATUS = ("fedmsg-relay", "--status", "--watch")


@pytest.mark.parametrize(
    ("command", "module"),
    [
        *((PUBLISH, each) for each in ("fedmsg_relay.commands.publish", "argparse", "zmq")),
        *((PUBLISH, each) for each in ("fedmsg.config", "fedmsg.core")),
        *((STATUS, each) for each in ("fedmsg_relay.commands.relay", "argparse", "zmq")),
        *((STATUS, each) for each in ("fedmsg.config", "fedmsg_relay.commands.watch")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_at_an_import(site: Site, command: tuple[str, ...], module: str) -> None:
    text = f"""
        import runpy, signal

        def interrupt(event, arguments):
            if event == "import" and arguments[0] == {module!r}:
                print("AT IT", flush=True)
                os.kill(os.getpid(), signal.SIGINT)

        sys.addaudithook(interrupt)
        sys.argv = {list(command)!r}
        runpy.run_path({str(BIN / command[0])!r}, run_name="__main__")
    """
    process = script(site, text)
    assert process.wait() in (1, 130, -signal.SIGINT)
    assert "AT IT" in process.output
    assert "Traceback" not in process.output
