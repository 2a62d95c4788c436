"""A site of the shape that Fedora's had: the relay's host, its neighbours, and who watches it.

Everything is in files that an administrator would have written; nothing names the relay but by its
addresses.
"""

from __future__ import annotations

from pathlib import Path

INSIDE_IP, VPN_IP = "192.0.2.1", "198.51.100.1"
INSIDE, VPN = "busgateway01.inside.example.org", "busgateway01.vpn.example.org"

LINKS = f"""
    ip link add inside type veth peer name vpn
    ip address add {INSIDE_IP}/24 dev inside
    ip address add {VPN_IP}/24 dev vpn
    ip link set inside up
    ip link set vpn up
"""
"""Makes the two interfaces."""

HOSTS = f"""\
127.0.0.1 localhost
::1 localhost
{INSIDE_IP} {INSIDE}
{VPN_IP} {VPN}
192.0.2.11 hub01.inside.example.org
192.0.2.12 wiki01.inside.example.org
192.0.2.13 pkgs01.inside.example.org
203.0.113.80 haproxy.example.org
"""

RUN = "/var/run/fedmsg"
MONITORING = f"{RUN}/monitoring-fedmsg-relay.socket"
ADDRESSES = [f"tcp://{INSIDE_IP}:9941", f"tcp://{VPN_IP}:3998", f"tcp://{INSIDE_IP}:3999"]
"""Of the relay: two of inbound, one of outbound."""

BASE = """
import os

config = dict(
    topic_prefix="org.example",
    environment="prod",
    active=False,
    high_water_mark=0,
    io_threads=1,
    post_init_sleep=0.5,
    zmq_enabled=True,
    zmq_strict=False,
    zmq_linger=2000,
    zmq_tcp_keepalive=1,
    zmq_tcp_keepalive_cnt=3,
    zmq_tcp_keepalive_idle=60,
    zmq_tcp_keepalive_intvl=5,
    zmq_reconnect_ivl=100,
    zmq_reconnect_ivl_max=500,
)

try:
    import psutil

    NAME = psutil.Process(os.getpid()).name()
    config["moksha.monitoring.socket"] = "ipc:///var/run/fedmsg/monitoring-%s.socket" % NAME
    config["moksha.monitoring.socket.mode"] = "770"
except (OSError, ImportError):
    pass
"""

LOGGING = """
class HubNoise(object):
    \"\"\"Raises for each record of another daemon than the one that it was written for.\"\"\"

    def __init__(self, name=""):
        self.name = name

    def filter(self, record):
        return record.consumer != self.name


config = dict(
    logging=dict(
        version=1,
        formatters=dict(
            bare={"datefmt": "%Y-%m-%d %H:%M:%S", "format": "[%(asctime)s] %(message)s"},
            mail={"format": "%(process)d %(pathname)s: %(message)s"},
        ),
        filters=dict(noise={"()": HubNoise, "name": "irc"}),
        handlers=dict(
            console={"class": "logging.StreamHandler", "formatter": "bare", "level": "INFO"},
            mailer={
                "class": "logging.handlers.SMTPHandler",
                "formatter": "mail",
                "filters": ["noise"],
                "mailhost": "127.0.0.1",
                "fromaddr": "fedmsg@example.org",
                "toaddrs": ["admin@example.org"],
                "subject": "fedmsg",
            },
        ),
        loggers=dict(
            fedmsg={"level": "INFO", "propagate": False, "handlers": ["mailer", "console"]},
            moksha={"level": "INFO", "propagate": False, "handlers": ["mailer", "console"]},
        ),
    ),
)
"""

RELAY = f"""
config = dict(
    relay_inbound=["tcp://{INSIDE}:9941", "tcp://{VPN}:3998"],
    endpoints={{"relay_outbound": ["tcp://{INSIDE}:3999"]}},
)
"""

FILES = {
    "base.py": BASE,
    "logging.py": LOGGING,
    "relay.py": RELAY,
    "endpoints.py": """
config = dict(
    endpoints={
        "hub.hub01": ["tcp://hub01.inside.example.org:30%02d" % i for i in range(8)],
        "wiki.wiki01": ["tcp://wiki01.inside.example.org:30%02d" % i for i in range(8)],
        "pkgs.pkgs01": ["tcp://pkgs01.inside.example.org:30%02d" % i for i in range(32)],
    },
)
""",
    "endpoints-loopback.py": "config = dict(endpoints={'loopback': ['tcp://127.0.0.1:3996']})",
    "srv.py": "config = dict(srv_endpoints=['example.org'])",
    "hub.py": "config = {'fedmsg.consumers.bugz.enabled': False}",
    "gateway.py": "config = {'fedmsg.consumers.gateway.port': 9940}",
    "irc.py": "config = {'irc': [{'network': 'irc.example.org', 'make_pretty': True}]}",
    "status.py": "config = {'status_directory': '/var/run/fedmsg/status'}",
    "ssl.py": """
config = dict(
    sign_messages=False,
    validate_signatures=False,
    crl_cache="/var/run/fedmsg/crl.pem",
    certnames={"wiki.wiki01": "wiki-wiki01.inside.example.org"},
)
""",
    "policy.py": "config = dict(routing_policy={}, routing_nitpicky=False)",
}

ANOTHER = f"""
config = dict(
    relay_inbound=[
        "tcp://hub01.inside.example.org:9941",
        "tcp://haproxy.example.org:9941",
        "tcp://{INSIDE}:9941",
    ],
    endpoints={{
        "relay_outbound": ["tcp://wiki01.inside.example.org:3999", "tcp://{INSIDE}:3999"],
    }},
)
"""
"""relay.py of a site that has appended its own addresses to those of others."""

PROXY = f"""
config = dict(
    relay_inbound=["tcp://haproxy.example.org:9941"],
    endpoints={{"relay_outbound": ["tcp://{INSIDE}:3999"]}},
)
"""
"""relay.py of a site that has the address of a proxy alone, which scripts know."""

NEIGHBOURS = f"""
    install -d -o fedmsg -g fedmsg -m 2775 {RUN} {RUN}/status
    cd {RUN}
    echo '{{"message": 17}}' > status/irc
    echo certificate > crl.pem
    for name in hub gateway irc; do
        /usr/local/lib/fedmsg-relay/bin/python -c \\
            "import socket; socket.socket(socket.AF_UNIX).bind('monitoring-fedmsg-$name.socket')"
    done
    chown -R fedmsg:fedmsg .
    chmod 750 crl.pem
"""
"""What hub, gateway and irc keep beside the relay's socket."""

LISTING = (
    f"cd {RUN} && find . ! -name 'fedmsg-relay*' ! -name '*relay.socket'"
    " -printf '%p %M %u %g %i\\n' | sort"
)
"""What there is of it, with modes, owners and inodes."""

PLUGIN = f"""
import json, os, sys, time
import zmq

path = {MONITORING!r}
if not os.path.exists(path):
    sys.exit("UNKNOWN - %s does not exist" % path)
if not os.access(path, os.W_OK):
    sys.exit("UNKNOWN - %s is not writable" % path)
with zmq.Context() as context, context.socket(zmq.SUB) as socket:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect("ipc://" + path)
    if not socket.poll(20000):
        sys.exit("UNKNOWN - no message within 20 s")
    said = socket.recv_json()
    if not socket.poll(10000):
        sys.exit("UNKNOWN - no second message within 10 s")
    second = socket.recv_json()
    assert not socket.getsockopt(zmq.RCVMORE)
for kind, name in ("consumers", "RelayConsumer"), ("producers", "MonitoringProducer"):
    (found,) = [each for each in said[kind] if each["name"] == name]
    if not found["initialized"]:
        sys.exit("CRITICAL - %s is not initialized" % name)
    if found["exceptions"] > 1:
        sys.exit("WARNING - %s" % found["exceptions"])
(relay,), (producer,) = said["consumers"], second["producers"]
if relay["backlog"] > 10:
    sys.exit("WARNING - backlog %s" % relay["backlog"])
if time.time() - producer["last_ran"] > 60:
    sys.exit("CRITICAL - last_ran %s" % producer["last_ran"])
print(relay["headcount_in"] + relay["headcount_out"], sum(relay["times"]))
"""
"""What Fedora's plugins of Nagios and collectd read, and what they make of it."""


def write(layer: Path) -> Path:
    """Write the site's files below ``layer``, for a box; returns it."""
    directory = layer / "etc" / "fedmsg.d"
    directory.mkdir(parents=True)
    for name, text in FILES.items():
        (directory / name).write_text(text)
    (layer / "etc" / "hosts").write_text(HOSTS)
    return layer
