"""The options of ``fedmsg-relay``."""

from __future__ import annotations

from fedmsg_relay.commands.arguments import Options, flag, logfile, path, pidfile, value
from fedmsg_relay.commands.version import version
from fedmsg_relay.system.naming import NAME

DESCRIPTION = """\
Forward every message that scripts publish to relay_inbound to the consumers at relay_outbound.

Both addresses come from the global fedmsg config; fedmsg-relay.conf(5) describes every key. Without
an option the relay runs in the foreground. SIGTERM and SIGINT stop it, after it has forwarded what
publishers have sent.

Examples:
  fedmsg-relay --test
      Check the configuration, and show what would be bound.
  fedmsg-relay --config-filename etc/fedmsg.d/relay.py
      Run in the foreground with this config file alone.
  fedmsg-relay --status --watch
      Show the traffic and the connections each second.

Exit status:
  0    stopped as asked; with --daemon: a relay runs; with --check: OK
  1    could not start, died, or does not answer --status; with --check:
       WARNING, as the journal lacks messages or a certificate has expired
  2    wrong usage; with --check: CRITICAL
  3    with --check: UNKNOWN, as the relay cannot be asked
  6    not configured; stderr names the key, or the file and the line
"""

OPTIONS = Options(
    NAME,
    DESCRIPTION,
    [
        flag("-t", "--test", help="Check the configuration, show what would be bound, and exit."),
        flag(
            "--check",
            help="Ask from outside whether the relay forwards, as a plugin of Nagios: one line, and"
            " the exit status 0 OK, 1 WARNING, 2 CRITICAL or 3 UNKNOWN.",
        ),
        flag(
            "--status",
            help="Show the traffic and the connections of the relay, as it publishes them on its"
            " monitoring socket.",
        ),
        path(
            "--pidfile",
            "Refuse to start if the process named in this file runs. Default:"
            f" {pidfile(NAME)} with --daemon or"
            " --replace, else none.",
        ),
        path("--logfile", f"Default: {logfile(NAME)} with --daemon, else the console."),
        flag("--daemon", help="Run in the background; return once the relay is bound."),
        flag(
            "--replace",
            help="Take over from the relay in the pid file, once everything is ready to start.",
        ),
        value("--timeout", "SECONDS", "With --check and --status: time to answer. Default: 2."),
        flag("--roundtrip", help="With --check: also send a message, and wait for it."),
        value(
            "--topic-prefix", "PREFIX", "With --roundtrip: the beginning of the message's topic."
        ),
        flag("--json", help="With --status: print JSON."),
        flag("--watch", help="With --status: refresh each second, with rates, until Ctrl-C."),
        value("--io-threads", "N", "Threads of libzmq; the key io_threads. Default: 1."),
        value("--high-water-mark", "N", "The key high_water_mark. Default: 0, no limit."),
        value("--linger", "MS", "The key zmq_linger. Default: 1000."),
        version(NAME),
    ],
    {"roundtrip": "check", "json": "status", "watch": "status"},
)
