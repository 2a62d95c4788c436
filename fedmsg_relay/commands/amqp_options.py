"""The options of ``fedmsg-relay-amqp``."""

from __future__ import annotations

from fedmsg_relay.commands.arguments import Options, flag, logfile, path, pidfile, value
from fedmsg_relay.commands.version import version

NAME = "fedmsg-relay-amqp"

DESCRIPTION = """\
Publish to RabbitMQ what the relay of this host forwards, and deliver to the relay what other relays
and programs have published there.

The key relay_amqp of the global fedmsg config gives the relay its name; the broker's address is in
fedora-messaging's config; fedmsg-relay.conf(5) describes every key. The relay must have a journal.
Without an option the bridge runs in the foreground. SIGTERM and SIGINT stop it.

Examples:
  fedmsg-relay-amqp --test
      Check the configuration, and show what it means.
  fedmsg-relay-amqp --status
      Show both connections and the counters.
  fedmsg-relay-amqp --check --timeout 10
      Ask whether messages pass, as a plugin of Nagios.

Exit status:
  0    stopped as asked; with --daemon: a bridge runs; with --check: OK
  1    could not start, died, or does not answer --status; with --check:
       WARNING, as a message was discarded within the last hour
  2    wrong usage; with --check: CRITICAL, as messages do not pass
  3    with --check: UNKNOWN, as the bridge cannot be asked
  6    not configured; stderr names the key, or the file and the line
"""

OPTIONS = Options(
    NAME,
    DESCRIPTION,
    [
        flag("-t", "--test", help="Check the configuration, show what it means, and exit."),
        flag(
            "--check",
            help="Ask the bridge whether messages pass, as a plugin of Nagios: one line, and the"
            " exit status 0 OK, 1 WARNING, 2 CRITICAL or 3 UNKNOWN.",
        ),
        flag(
            "--status",
            help="Show the connections and the counters of the bridge, as it publishes them on its"
            " monitoring socket.",
        ),
        path(
            "--pidfile",
            "Refuse to start if the process named in this file runs. Default:"
            f" {pidfile(NAME)} with --daemon, else"
            " none.",
        ),
        path("--logfile", f"Default: {logfile(NAME)} with --daemon, else the console."),
        flag("--daemon", help="Run in the background; return once the bridge runs."),
        value("--timeout", "SECONDS", "With --check and --status: time to answer. Default: 2."),
        flag("--json", help="With --status: print JSON."),
        version(NAME),
    ],
    {"json": "status"},
)
