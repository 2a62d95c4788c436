"""A relay whose disk hangs while a file exists.

    hanging.py FILE [OPTION...]

It is the real relay; that fdatasync(2) does not return is a fake, as a disk that hangs would hurt
everybody here.
"""

from __future__ import annotations

import os
import sys
import time

from fedmsg_relay.commands import relay

_fdatasync = os.fdatasync
_file = sys.argv.pop(1)


def fdatasync(fd: int) -> None:
    while os.path.exists(_file):
        time.sleep(0.01)
    _fdatasync(fd)


if __name__ == "__main__":
    os.fdatasync = fdatasync
    sys.exit(relay.main())
