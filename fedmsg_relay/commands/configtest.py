"""``--test``: what a start would do with the configuration; binds, creates and removes nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import time
from collections.abc import Iterable, Iterator

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.daemon import startup
from fedmsg_relay.errors import BindError
from fedmsg_relay.net import listening
from fedmsg_relay.net.endpoints import Endpoint
from fedmsg_relay.system import pidfile

log = logging.getLogger("fedmsg.relay")


def test(
    settings: Settings, pidfile_path: str, log_path: str | None, user: pwd.struct_passwd | None
) -> Iterator[str]:
    """Check that a start could bind what it should; yield the lines of the answer.

    An address of the relay in the pid file counts as free.  The log warns of a directory that is
    missing, or that ``user`` may not write to; None is the user of this process.

    Raises :class:`fedmsg_relay.errors.RelayError` as a start would.
    """
    local = startup.checked_endpoints(settings)
    with _acting_as(user):  # for root can read every key
        material = startup.checked_material(settings)
    holder = pidfile.named(pidfile_path)

    def check(group: Iterable[Endpoint]) -> None:
        for endpoint in group:
            if isinstance(path := endpoint.address, str):
                listening.check_file(endpoint, holder)
                _warn_of_directory(f"{endpoint.key}: {endpoint.uri}", path, user)

    check(local.inbound)
    _, errors = local.first_outbound(check)
    for error in errors:
        log.warning("%s; the next address would be used", error)
    try:
        check(local.monitoring)
    except BindError as error:
        log.warning("%s; the relay would run without a monitoring socket", error)
    if settings.journal:
        # The relay makes the directory itself, if that above it is there.
        inside = os.path.isdir(settings.journal)
        path = os.path.join(settings.journal, "lock") if inside else settings.journal
        _warn_of_directory(f"relay_journal = {settings.journal}", path, user)
    if log_path is not None:
        _warn_of_directory(f"the log file {log_path}", os.path.abspath(log_path), user)

    for endpoint in local.inbound:
        yield f"relay_inbound: {endpoint.uri}"
    for group in local.outbound:
        yield f"relay_outbound: {', '.join(endpoint.uri for endpoint in group)}"
    for endpoint in local.monitoring + local.http:
        yield f"{endpoint.key}: {endpoint.uri}"
    for expiry in material.expiries() if material else ():
        until = time.strftime("%F %T", time.gmtime(expiry.until))
        yield f"{expiry.key}: {expiry.path}, valid until {until} UTC"
    if settings.journal:
        yield f"relay_journal: {settings.journal}"


def _warn_of_directory(what: str, path: str, user: pwd.struct_passwd | None) -> None:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        log.warning("%s: there is no directory %s; make it", what, directory)
        return
    with _acting_as(user):
        is_writable = os.access(directory, os.W_OK | os.X_OK, effective_ids=True)
    if not is_writable:
        name = user.pw_name if user else "this user"
        log.warning("%s: %s may not write to %s", what, name, directory)


@contextlib.contextmanager
def _acting_as(user: pwd.struct_passwd | None) -> Iterator[None]:
    """Make ``user`` the effective user within the block, if this process is root's."""
    if user is None or os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(os.getgid())
        os.setgroups(groups)
