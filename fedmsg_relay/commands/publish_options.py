"""The options of ``fedmsg-relay-publish``: those of ``fedmsg-logger``, and more."""

from __future__ import annotations

from fedmsg_relay.commands.version import version
from fedmsg_relay.config.parser import Option

NAME = "fedmsg-relay-publish"

DESCRIPTION = """\
Publish messages through the relay: --message, or each line of standard input as it comes. Exits
with 0 only if the relay has taken all of them.

The options are those of fedmsg-logger, and more.

Examples:
  echo "Disk full on $(hostname)" | fedmsg-relay-publish --modname=ops --topic=disk
      Publish a line, as PREFIX.ENVIRONMENT.ops.disk.
  fedmsg-relay-publish --json-input --message='{"package": "nethack"}'
      Publish an object.
  tail -f /var/log/messages | fedmsg-relay-publish --wait
      Publish each line as it comes, and wait for a relay that is down.

Exit status:
  0    the relay has taken all of it (with --confirm: all was seen on the bus)
  2    wrong usage, or an option's bad value
  6    not configured; stderr names the key, or the file and the line
  65   some of the input is not JSON although --json-input was given, or is
       larger than relay_max_message_size; the rest is published
  69   not all was published: no relay, or not confirmed, or not signed; stderr
       names the first message that was not published
  130  interrupted
"""

OPTIONS: list[Option] = [
    (
        ["--message"],
        {
            "dest": "logger_message",  # as in fedmsg-logger: "message" is a parameter of the signer
            "metavar": "TEXT",
            "help": "The message, instead of standard input.",
        },
    ),
    (
        ["--json-input"],
        {
            "action": "store_true",
            "help": "The message, or each line, is JSON. If the first line alone is not JSON, all"
            " of standard input is one message.",
        },
    ),
    (
        ["--topic"],
        {"default": "log", "help": "End of PREFIX.ENVIRONMENT.MODNAME.TOPIC. Default: log."},
    ),
    (
        ["--modname"],
        {
            "default": "logger",
            "metavar": "NAME",
            "help": "Third part of the topic: PREFIX.ENVIRONMENT.MODNAME.TOPIC. Default: logger.",
        },
    ),
    (
        ["--cert-prefix"],
        {
            "default": "shell",
            "metavar": "NAME",
            "help": "The certificate to sign with, if messages are signed. Default: shell.",
        },
    ),
    (["--topic-prefix"], {"help": "The key topic_prefix."}),
    (
        ["--confirm"],
        {
            "action": "store_true",
            "help": "Subscribe at relay_outbound too; succeed only if every message is seen there.",
        },
    ),
    (
        ["--wait"],
        {
            "action": "store_true",
            "help": "Try forever while no relay answers; report that on stderr after --timeout.",
        },
    ),
    (["--timeout"], {"help": "Time to try while no relay answers. Default: 2."}),
    version(NAME),
]
