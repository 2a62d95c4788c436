"""A site whose relay has a monitoring socket, and what that says."""

from __future__ import annotations

import json
from typing import Any

from harness import RELAY, Site

KEY = "moksha.monitoring.socket"


def status(site: Site, *options: str) -> dict[str, Any]:
    done = site.run(*RELAY, "--status", "--json", *options)
    assert done.returncode == 0, done
    report: dict[str, Any] = json.loads(done.stdout)
    return report
