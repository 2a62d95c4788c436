"""A site whose messages fedmsg signs."""

from __future__ import annotations

import socket

from harness import Site
from keys import Authority


def sign(site: Site) -> None:
    """Have the site's messages signed, with a key that an authority of its own has certified."""
    authority = Authority(site.root / "pki")
    authority.issue("shell")
    site.write(
        sign_messages=True,
        ssldir=str(authority.directory),
        ca_cert_location=str(authority.path),
        crl_location=None,
        certnames={f"shell.{socket.gethostname().split('.')[0]}": "shell"},
    )
