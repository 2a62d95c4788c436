"""Other implementations of ZeroMQ than pyzmq with blocking sockets, on both sides of the relay."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import box
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

TWISTED = """
from twisted.internet import reactor
from txzmq import ZmqEndpoint, ZmqFactory, ZmqPubConnection, ZmqSubConnection
class Consumer(ZmqSubConnection):
    def messageReceived(self, message):
        show(message)
factory = ZmqFactory()
factory.lingerPeriod = 10_000
factory.registerForShutdown()
endpoint = ZmqEndpoint("connect", address)
if role == "consume":
    Consumer(factory, endpoint).subscribe(b"")
else:
    publisher = ZmqPubConnection(factory, endpoint)
    def publish():
        for message in messages:
            publisher.send(message)
        reactor.stop()
    reactor.callLater(0.5, publish)
reactor.run()
"""

C = r"""
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

static char zeros[70000], all[256];

static void show(void *socket)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    do {
        zmq_msg_recv(&frame, socket, 0);
        const unsigned char *bytes = zmq_msg_data(&frame);
        for (size_t i = 0; i < zmq_msg_size(&frame); i++)
            printf("%02x", bytes[i]);
        putchar(zmq_msg_more(&frame) ? '.' : '\n');
    } while (zmq_msg_more(&frame));
    fflush(stdout);
}

int main(int count, char **arguments)
{
    if (count != 4)
        return 2;
    const char *role = arguments[1], *address = arguments[2], *name = arguments[3];
    int consumes = !strcmp(role, "consume"), size = strlen(name);
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, consumes ? ZMQ_SUB : ZMQ_PUB);
    if (consumes)
        zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0);
    if (zmq_connect(socket, address))
        return 1;
    while (consumes)
        show(socket);
    for (int i = 0; i < 256; i++)
        all[i] = i;
    usleep(500000);
    zmq_send(socket, name, size, 0);
    zmq_send(socket, name, size, ZMQ_SNDMORE);
    zmq_send(socket, all, sizeof all, 0);
    zmq_send(socket, name, size, ZMQ_SNDMORE);
    zmq_send(socket, "", 0, ZMQ_SNDMORE);
    zmq_send(socket, zeros, sizeof zeros, 0);
    zmq_send(socket, name, size, ZMQ_SNDMORE);
    zmq_send(socket, "last", 4, ZMQ_SNDMORE);
    zmq_send(socket, "", 0, ZMQ_SNDMORE);
    zmq_send(socket, "", 0, 0);
    zmq_close(socket);
    return zmq_ctx_term(context);
}
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


def compiled(directory: Path) -> Path:
    """The peer in C, with the system's libzmq: another release than pyzmq's."""
    box.require("cc")
    source, peer = directory / "peer.c", directory / "peer"
    source.write_text(C)
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-o", peer, source, "-lzmq"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "zmq.h" in done.stderr:
        box.skip("libzmq3-dev is not installed")
    assert done.returncode == 0, done.stderr
    return peer


SCRIPTS = {
    "gevent": "import time, zmq.green as zmq" + BLOCKING,
    "aiozmq": ASYNCIO,
    "txzmq": TWISTED,
}
"""In Python, by the module that each needs."""


@pytest.fixture(params=[*SCRIPTS, "node", "c"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """How to start another implementation."""
    name = request.param
    if name == "node":
        path = request.getfixturevalue("node_path")
        return ("env", f"NODE_PATH={path}", "node", "-e", NODE)
    if name == "c":
        return (str(compiled(tmp_path)),)
    if importlib.util.find_spec(name) is None:
        box.skip(f"{name} is not installed")
    return (sys.executable, "-W", "ignore", "-c", PYTHON + SCRIPTS[name])


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
