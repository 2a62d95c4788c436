"""The command ``fedmsg-relay-journal``, from its first moment, as :mod:`.publish_start`."""

import signal


def main() -> int:
    """Import and run the command; return the exit status."""
    # Until the command can answer a Ctrl-C, SIGINT is to end the process without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fedmsg_relay.commands import journal

    return journal.main()
