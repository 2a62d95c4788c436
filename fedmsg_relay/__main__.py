"""``python -m fedmsg_relay``: the command, whichever ``fedmsg-relay`` is first in PATH."""

import sys

from fedmsg_relay.cli import main

sys.exit(main())
