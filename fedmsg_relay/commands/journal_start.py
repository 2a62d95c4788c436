"""The command ``fedmsg-relay-journal``, from its first moment: imports take most of a short run."""

from fedmsg_relay.system import ctrl_c


def main() -> int:
    """Import and run the command; return the exit status."""
    ctrl_c.end_at_once()
    from fedmsg_relay.commands import journal

    return journal.main()
