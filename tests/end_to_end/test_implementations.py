"""Other implementations of ZeroMQ than pyzmq with blocking sockets, on both sides of the relay."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import DEADLINE_S, Process, Site, wait_for

FRAMES = "[[name], [name, bytes(range(256))], [name, b'', bytes(70000)], [name, b'last', b'', b'']]"
"""Messages, in Python; ``name`` is of who sends them."""

PYTHON = f"""
import sys, threading
role, address, name = sys.argv[1], sys.argv[2], sys.argv[3].encode()
messages = {FRAMES}
def show(frames):
    print(*(frame.hex() for frame in frames), sep=".", flush=True)
"""

BLOCKING = """
socket = zmq.Context().socket(zmq.SUB if role == "consume" else zmq.PUB)
if role == "consume":
    socket.subscribe(b"")
socket.connect(address)
while role == "consume":
    show(socket.recv_multipart())
time.sleep(0.5)
for message in messages:
    socket.send_multipart(message)
socket.close(10_000)
socket.context.term()
"""

ASYNCIO = """
import asyncio, aiozmq, zmq
async def main():
    kind = zmq.SUB if role == "consume" else zmq.PUB
    stream = await aiozmq.create_zmq_stream(kind, connect=address)
    if role == "consume":
        stream.transport.subscribe(b"")
        while True:
            show(await stream.read())
    await asyncio.sleep(0.5)
    for message in messages:
        stream.write(message)
    await stream.drain()
    await asyncio.sleep(0.5)
    stream.close()
asyncio.run(main())
"""

NODE = """
const zmq = require("zeromq")
const [role, address, name] = process.argv.slice(-3)
const all = Buffer.from([...Array(256).keys()])
const messages = [
  [name], [name, all], [name, "", Buffer.alloc(70000)], [name, "last", "", ""]]
async function main() {
  if (role === "consume") {
    const socket = new zmq.Subscriber()
    socket.subscribe()
    socket.connect(address)
    for await (const frames of socket)
      process.stdout.write(frames.map(frame => frame.toString("hex")).join(".") + "\\n")
  }
  const socket = new zmq.Publisher({linger: 10000})
  socket.connect(address)
  await new Promise(done => setTimeout(done, 500))
  for (const message of messages) await socket.send(message)
  socket.close()
}
main()
"""


def expected(name: str) -> list[str]:
    messages = eval(FRAMES, {"name": name.encode()})
    return [".".join(frame.hex() for frame in message) for message in messages]


@pytest.fixture(scope="session")
def node_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Node's zeromq is; it comes with its libzmq."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    root = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", root]
    done = subprocess.run([*install, "zeromq@6"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"Node's zeromq cannot be installed: {done.stderr[-200:]}")
    return root / "node_modules"


@pytest.fixture(params=["gevent", "aiozmq", "node"])
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """How to start another implementation."""
    name = request.param
    if name == "node":
        path = request.getfixturevalue("node_path")
        return ("env", f"NODE_PATH={path}", "node", "-e", NODE)
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    text = "import time, zmq.green as zmq" + BLOCKING if name == "gevent" else ASYNCIO
    return (sys.executable, "-W", "ignore", "-c", PYTHON + text)


def test_all_pairs_with_pyzmq_byte_for_byte(site: Site, command: tuple[str, ...]) -> None:
    site.relay()
    canary = site.publisher()
    pyzmq = (sys.executable, "-c", PYTHON + "import time, zmq" + BLOCKING)
    consumers: list[Process] = [
        site.start(*each, "consume", site.outbound, "-") for each in (pyzmq, command)
    ]

    def are_heard() -> bool:
        canary.send(b"canary")
        return all(b"canary".hex() in consumer.output for consumer in consumers)

    wait_for(are_heard, "the canary")
    for name, each in (("pyzmq", pyzmq), ("other", command)):
        publisher = site.start(*each, "publish", site.inbound, name)
        assert publisher.wait(DEADLINE_S) == 0, publisher.output
    for consumer in consumers:
        last = expected("other")[-1]
        wait_for(lambda consumer=consumer, last=last: last in consumer.output, "the last message")
        received = [line for line in consumer.output.split() if line != b"canary".hex()]
        assert received == expected("pyzmq") + expected("other")
