"""A real program, with some of its constants shorter, so that a test need not wait for so long.

    hastened.py PROGRAM MODULE.NAME=SECONDS... -- [OPTION...]

The programs are the modules of commands that have a ``main``; the modules are those of the package;
what is no number of theirs is an error.
"""

from __future__ import annotations

import importlib
import sys


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
    program = importlib.import_module(f"fedmsg_relay.commands.{sys.argv[1]}")
    for constant in sys.argv[2:separator]:
        hasten(constant)
    del sys.argv[1 : separator + 1]
    sys.exit(program.main())
