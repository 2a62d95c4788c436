"""The peers that speak ZMTP: this relay, upstream's, and the engine alone in C and in Python."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import zmq
from harness import RELAY, Site

from bench import wires
from bench.peer import Peer, Running, first_line

HERE = Path(__file__).parent
UPSTREAM = Path(sys.prefix, "upstream", "bin")
"""An environment of its own, as its command has the name of ours; ``make bench`` makes it."""


class Ours(Peer):
    """As it is by default, or with some keys of its configuration: ``relay:io_threads=2``."""

    def __init__(self, name: str = "relay") -> None:
        _, *keys = name.split(":")
        self.name = name
        self.title = ", ".join(["this relay", *keys])
        self._config = {
            key: ast.literal_eval(value) for key, _, value in (each.partition("=") for each in keys)
        }

    def version(self) -> str:
        return f"{first_line(*RELAY, '--version')}, libzmq {zmq.zmq_version()}"

    def prepare(self, site: Site) -> list[str]:
        site.write(**self._config)
        return [*RELAY, "--pidfile", str(site.root / "pid")]

    def restart(self, running: Running) -> None:
        """As the init script does: the new one is started beside the old."""
        before = running.process
        running.start("--replace")
        running.process.wait_for("forwarding;")
        before.wait()


class Journaling(Ours):
    """With a journal, on the disk that has this machine's temporary files."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "relay:journal"
        self.title = "this relay, with a journal"

    def prepare(self, site: Site) -> list[str]:
        site.write(relay_journal=str(site.root / "journal"))
        return super().prepare(site)


class Engine(Peer):
    """libzmq's own ``zmq_proxy()``, in C where there is a compiler and libzmq's headers."""

    name = "zmq_proxy"
    title = "C, zmq_proxy()"

    def version(self) -> str:
        how = "proxy.c" if _compiles() else "pyzmq"
        return f"{how}, libzmq {zmq.zmq_version()}, the one that this relay has"

    def prepare(self, site: Site) -> list[str]:
        if not _compiles():
            return _script("proxy", site)
        bundled = sorted(Path(zmq.__file__).parent.parent.glob("pyzmq.libs/libzmq*.so*"))
        return _compiled(site, bundled[0] if bundled else None)


class SystemEngine(Peer):
    """The same with the libzmq that the system has."""

    name = "zmq_proxy-system"
    title = "C, system's libzmq"

    def missing(self) -> str:
        return "" if _compiles() else "needs cc and libzmq3-dev"

    def version(self) -> str:
        return f"proxy.c, libzmq {first_line('pkg-config', '--modversion', 'libzmq')}"

    def prepare(self, site: Site) -> list[str]:
        return _compiled(site, None)


class Loop(Peer):
    """What anybody would write first: receive, send."""

    name = "loop"
    title = "a loop in Python"

    def version(self) -> str:
        return f"Python {sys.version.split()[0]}, pyzmq {zmq.__version__}"

    def prepare(self, site: Site) -> list[str]:
        return _script("loop", site)


class Upstream(Peer):
    name = "upstream"
    title = "fedmsg's relay"
    wire = wires.Wrapping()
    drops_beyond = 500  # its PUB has libzmq's high-water mark, 1,000, and hears late what was taken

    def missing(self) -> str:
        return "" if (UPSTREAM / "fedmsg-relay").exists() else "could not be installed"

    def version(self) -> str:
        says = "import importlib.metadata as m; print('fedmsg', m.version('fedmsg'))"
        return first_line(UPSTREAM / "python", "-c", says)

    def prepare(self, site: Site) -> list[str]:
        site.write(zmq_enabled=True, validate_signatures=False, sign_messages=False)
        return [str(UPSTREAM / "fedmsg-relay")]


def _script(what: str, site: Site) -> list[str]:
    return [sys.executable, str(HERE / "engine.py"), what, site.inbound, site.outbound]


@functools.cache
def _compiles() -> bool:
    source = HERE / "proxy.c"
    return bool(shutil.which("cc")) and not subprocess.call(
        ["cc", "-fsyntax-only", source], stderr=subprocess.DEVNULL
    )


def _compiled(site: Site, library: Path | None) -> list[str]:
    """proxy.c, linked with a libzmq of which only the file is known, or with the system's."""
    program = str(site.root / "proxy")
    linked = ["-lzmq"]
    if library:
        linked = [str(library), f"-Wl,-rpath,{library.parent}", "-Wl,--allow-shlib-undefined"]
    subprocess.run(["cc", "-O2", "-o", program, HERE / "proxy.c", *linked], check=True)
    return [program, site.inbound, site.outbound]
