"""``fedmsg-relay``: the words on the command line -> one action -> the exit status."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

from fedmsg_relay.commands import arguments
from fedmsg_relay.commands.program import Program, Site, drop_output
from fedmsg_relay.commands.relay_options import OPTIONS
from fedmsg_relay.config import settings
from fedmsg_relay.daemon import startup
from fedmsg_relay.system.logfile import LogFile
from fedmsg_relay.system.pidfile import PidFile


class Relay(Program):
    """The relay."""

    options = OPTIONS

    def serve(
        self,
        site: Site,
        pidfile: PidFile | None,
        log_file: LogFile | None,
        ready: Callable[[], None],
    ) -> None:
        startup.serve(
            settings.read(site),
            pidfile=pidfile,
            replace=site["replace"],
            log_file=log_file,
            ready=ready,
        )

    def test(self, site: Site) -> list[str]:
        from fedmsg_relay.commands import configtest  # not imported for a start, likewise below

        user = arguments.service_user()
        log_path = site["logfile"] or (self.options.logfile if user else None)
        pidfile_path = site["pidfile"] or self.options.pidfile
        return list(configtest.test(settings.read(site), pidfile_path, log_path, user))

    def status(self, site: Site) -> None:
        from fedmsg_relay.commands import status, watch

        ask = functools.partial(
            status.ask, settings.read(site), settings.timeout_s(site["timeout"])
        )
        if site["watch"]:
            try:
                watch.Watch(ask, site["json"]).run()
            except KeyboardInterrupt:
                pass
            except BrokenPipeError:
                drop_output()
            return
        report = ask()
        if site["json"]:
            print(json.dumps(report, indent=2))
        else:
            print(*status.table(report), sep="\n")

    def check(self, site: Site) -> tuple[int, str]:
        from fedmsg_relay.commands import check

        timeout_s = settings.timeout_s(site["timeout"])
        return check.check(settings.read(site), site, timeout_s, site["roundtrip"])


def main() -> int:
    """Do what ``sys.argv`` says; return the exit status."""
    return Relay().main()
