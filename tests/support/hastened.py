"""The real relay, with some of its constants shorter, so that a test need not wait for so long.

    hastened.py MODULE.NAME=SECONDS... -- [OPTION...]

The modules are those of the package; what is no number of theirs is an error.
"""

from __future__ import annotations

import importlib
import sys

from fedmsg_relay.commands import relay


def hasten(constant: str) -> None:
    path, _, value = constant.partition("=")
    module_name, _, name = path.rpartition(".")
    module = importlib.import_module(f"fedmsg_relay.{module_name}")
    before = getattr(module, name)
    if not 0 < float(value) < before:
        raise SystemExit(f"{constant} is not shorter than {before}")
    setattr(module, name, float(value))


if __name__ == "__main__":
    separator = sys.argv.index("--")
    for constant in sys.argv[1:separator]:
        hasten(constant)
    del sys.argv[1 : separator + 1]
    sys.exit(relay.main())
