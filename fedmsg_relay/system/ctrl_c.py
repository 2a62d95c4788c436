"""Ctrl-C while a command is loaded, which takes most of the time of a short command."""

import signal


def end_at_once() -> None:
    """Have SIGINT end the process, without a traceback, until :func:`interrupt`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt() -> None:
    """Have SIGINT raise KeyboardInterrupt again, for a command that can answer it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
